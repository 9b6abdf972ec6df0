"""The page of a search for a defense: complete, offline, and the same every time; the text version says the same."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest
from redteam_reports.charts import svg
from redteam_reports.defenses_html import plot, render
from redteam_reports.defenses_markdown import write as write_markdown

from redteam.search.defenders.price import OwnersPrice
from tests.chromium import in_a_browser
from tests.search import made


@pytest.fixture
def found() -> Any:
    dear = OwnersPrice(seconds=2.5, steps=90, fine_tuning=60, parameters=1.5, latency=1.3)
    trials = [
        made.trial(0, 0.6, 0.99, 0.5, spared=True),
        made.trial(1, 0.9, 0.8, 0.5),
        made.trial(2, 0.2, 0.97, 0.0, pipeline='wide:way="<b>|"+noise').model_copy(update={"price": dear}),
        made.trial(3, 0.95, 1.0, 0.01),
    ]
    return made.found(*trials, made.UNPROVEN, made.FAILED, repeat="redteam run out/frontier.toml")


def test_everything_is_on_it_and_escaped(found: Any) -> None:
    page = render(found)
    assert "<b>" not in page
    assert "undid &lt;its&gt; plants" in page
    for trial in (found.naive, *found.trials):
        assert page.count(f'data-trial="{trial.number}"') == 1
    for sentence in found.sentences:
        assert sentence.split(":")[0][:40].replace("'", "&#39;") in page
    assert "0.50 [0.40, 0.60] or more" in page
    assert "redteam run out/frontier.toml" in page
    assert page == render(found)


def test_nothing_leads_away_from_it(found: Any) -> None:
    page = render(found)
    assert "default-src 'none'" in page
    assert not re.search(r"https?://|<script|<link|url\(", page)


def test_every_judged_trial_is_a_mark_by_what_it_costs(found: Any) -> None:
    drawn = svg(plot(found))
    marks = re.findall(r'<path class="m(\d)" d="M([\d.]+) ([\d.]+)[^"]*"><title>([^<]*)', drawn)
    kinds = {title.split(":")[0] if ":" not in title[:1] else title: kind for kind, _, _, title in marks}
    assert len(marks) == 5, "four trials and the victim as it is"
    assert kinds["none"] == "3"
    assert kinds["wide"] == "2", "it costs its owner more than the fine-tuning did"
    assert all(50 < float(x) < 480 and 0 < float(y) < 300 for _, x, y, _ in marks)
    assert "imitation: 0.54" in drawn
    by_theft = {title.partition(": ")[0]: float(y) for _, _, y, title in marks}
    assert by_theft["d:x=0"] > by_theft["d:x=3"], "less theft lies lower"


@pytest.mark.parametrize("trials", [(), ("unproven",), ("poor",)])
def test_little_and_nothing_can_be_shown(trials: tuple[str, ...]) -> None:
    held = {"unproven": made.UNPROVEN, "poor": made.trial(0, 0.1, 0.05, 0.0)}
    page = render(made.found(*(held[name] for name in trials)))
    assert ('class="chart"' in page) == ("poor" in trials)


def test_the_text_says_the_same(found: Any, tmp_path: Path) -> None:
    write_markdown(found, tmp_path / "x.md")
    text = (tmp_path / "x.md").read_text()
    for sentence in found.sentences:
        assert sentence in text
    rows = [line for line in text.splitlines() if line.startswith("| `")]
    assert len(rows) == 1 + len(found.trials)
    assert {len(re.split(r"(?<!\\)\|", row)) for row in rows} == {9}


@in_a_browser
def test_in_a_browser(found: Any, browser: Any, tmp_path: Path) -> None:
    """No wider than the window however long a chain is, and nothing for axe to complain of."""
    from axe_playwright_python.sync_playwright import Axe

    long = made.trial(7, 0.1, 0.96, 0.0, pipeline="a:" + ",".join(f"setting{n}=[0.01,{n}]" for n in range(30)))
    (tmp_path / "x.html").write_text(render(made.found(*found.trials, long)))
    for width, scheme in ((1280, "light"), (400, "dark")):
        context = browser.new_context(viewport={"width": width, "height": 900}, color_scheme=scheme)
        page = context.new_page()
        page.goto((tmp_path / "x.html").as_uri())
        wide, room = page.evaluate("[document.documentElement.scrollWidth, document.documentElement.clientWidth]")
        assert wide <= room
        found_by_axe = Axe().run(page)
        assert found_by_axe.violations_count == 0, found_by_axe.generate_report()
        context.close()
