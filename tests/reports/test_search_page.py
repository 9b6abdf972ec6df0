"""The page of a search: complete, offline, the same every time, and readable by everyone."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest
from redteam_reports.charts import svg
from redteam_reports.search_html import plot, render, write

from redteam.evaluation.statistics import Interval
from redteam.search.results import Scored, SearchResults, Trial, front, winner
from tests.chromium import in_a_browser


def made(*figures: tuple[float, float], **rest: Any) -> SearchResults:
    trials = [
        Trial(number=n, pipeline=f"a:x={n}+b", status="ok", theft=t, seconds=s, labels=0, steps=n)
        for n, (t, s) in enumerate(figures)
    ]
    trials.append(Trial(number=90, pipeline='c:name="<b>"', status="error", reason="ValueError: 1 < 2 & 3"))
    best = winner(trials)
    dials = {
        "x": {"low": 0.1, "high": 2.0, "log": True, "default": 1},
        "y": {"choices": [True, False], "default": True},
    }
    return SearchResults(
        scenario="digits",
        seed=0,
        defense="mergelock:scale=[0.1,10]",
        merger="task-arithmetic",
        threat="weights-only",
        split="validation",
        wanted=40,
        naive=0.01,
        space={"steps": 3, "attacks": {"a": {"source": "0", "settings": dials}, "b": {"source": "1", "settings": {}}}},
        trials=tuple(trials),
        repeated=2,
        exhausted=False,
        front=tuple(one.number for one in front(trials)),
        winner=best.number if best else None,
        repeat="redteam run out/winner.toml",
        command="redteam search --defense mergelock",
        environment={"redteam": "1", "engine": "f" * 64},
        **rest,
    )


@pytest.fixture(scope="module")
def found() -> SearchResults:
    scored = Scored(theft=Interval(0.9, 0.8, 0.97, 1, "test items"), seconds=0.3, verdict="BROKEN")
    return made((0.0, 0.01), (0.5, 0.02), (0.4, 3.0), (0.95, 0.2), (1.0, 40.0), (0.95, 0.9), scored=scored)


def test_everything_is_on_it_and_escaped(found: SearchResults) -> None:
    page = render(found)
    assert "<b>" not in page
    assert "1 &lt; 2 &amp; 3" in page
    for trial in found.trials:
        assert f'data-trial="{trial.number}"' in page
    for sentence in found.sentences:
        assert sentence.split(":")[0][:40] in page
    assert "0.90 [0.80, 0.97]" in page
    assert page == render(found)


def test_nothing_leads_away_from_it(found: SearchResults) -> None:
    page = render(found)
    assert "default-src 'none'" in page
    assert not re.search(r"https?://|<script|<link|url\(", page)


def test_every_trial_with_figures_is_a_mark_within_the_picture(found: SearchResults) -> None:
    drawn = svg(plot(found))
    marks = re.findall(r'<path class="m(\d)" d="M([\d.]+) ([\d.]+)[^"]*"><title>', drawn)
    assert len(marks) == 6
    assert sorted(kind for kind, _, _ in marks) == ["1", "1", "1", "3", "6", "6"]
    assert all(50 < float(x) < 480 and 0 < float(y) < 300 for _, x, y in marks)
    assert "the winner" in drawn


@pytest.mark.parametrize("figures", [(), ((0.3, 0.5),), ((0.3, 1.0), (0.3, 1.0)), ((0.0, 0.0),)])
def test_little_and_nothing_can_be_shown(figures: tuple[tuple[float, float], ...]) -> None:
    page = render(made(*figures))
    assert ('class="chart"' in page) == bool(figures)


@in_a_browser
def test_in_a_browser(found: SearchResults, browser: Any, tmp_path: Path) -> None:
    """Silent, no wider than the window, and nothing for axe to complain of, in light and dark, wide and narrow."""
    from axe_playwright_python.sync_playwright import Axe

    write(found, tmp_path / "search.html")
    for width, scheme in ((1280, "light"), (1280, "dark"), (400, "light"), (400, "dark")):
        context = browser.new_context(viewport={"width": width, "height": 900}, color_scheme=scheme)
        page, asked, complaints = context.new_page(), [], []
        page.on("request", lambda request, asked=asked: asked.append(request.url))
        page.on("console", lambda message, complaints=complaints: complaints.append(message.text))
        page.goto((tmp_path / "search.html").as_uri())
        wide, room = page.evaluate("[document.documentElement.scrollWidth, document.documentElement.clientWidth]")
        assert wide <= room
        assert (len(asked), complaints) == (1, [])
        found_by_axe = Axe().run(page)
        assert "color-contrast" in {rule["id"] for rule in found_by_axe.response["passes"]}
        assert found_by_axe.violations_count == 0, found_by_axe.generate_report()
        context.close()
