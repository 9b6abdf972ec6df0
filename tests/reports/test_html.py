"""The page's text, without a browser; `test_browser.py` looks at it in one."""

from __future__ import annotations

import base64
import hashlib
import re
from html import escape
from html.parser import HTMLParser
from itertools import chain
from pathlib import Path
from typing import Any

import pytest
import redteam_reports
from redteam_reports import bars, charts, wording
from redteam_reports.results_html import LIMIT, render

from redteam.answer import sentence
from redteam.evaluation.results import Results
from redteam.plugins.registry import ATTACKS, DEFENSES, MERGERS, SCENARIOS
from tests.reports.conftest import KEPT

EVIL = "<script>alert(1)</script>\"'&{{ 7 * 7 }}"


class Outline(HTMLParser):
    """Headings, ids, links and what has no scope or label."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.levels: list[int] = []
        self.ids: list[str] = []
        self.links: list[str] = []
        self.asks: list[str] = []
        self.heads = self.scoped = self.tables = self.captions = 0
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        given = dict(attrs)
        if re.fullmatch(r"h[1-6]", tag):
            self.levels.append(int(tag[1]))
        self.ids += [str(given["id"])] if "id" in given else []
        self.links += [str(given["href"])] if tag == "a" else []
        self.asks += [f"{tag} {name}" for name in given if name in ("src", "srcset", "action", "ping", "xlink:href")]
        self.asks += [tag] if tag in ("link", "img", "iframe", "object", "embed", "base") else []
        self.heads += tag == "th"
        self.scoped += tag == "th" and given.get("scope") in ("col", "row")
        self.tables += tag == "table"
        self.captions += tag == "caption"


@pytest.fixture(scope="module")
def page(full: Results) -> str:
    return render(full)


def test_the_same_results_give_the_same_bytes(full: Results, page: str) -> None:
    assert render(Results.model_validate_json(full.model_dump_json(by_alias=True))) == page


def test_is_one_file_of_sound_structure(page: str) -> None:
    outline = Outline(page)
    assert outline.asks == []
    assert all(link.startswith("#") for link in outline.links)
    assert {link[1:] for link in outline.links} <= set(outline.ids)
    assert len(outline.ids) == len(set(outline.ids))
    assert outline.levels[0] == 1
    assert outline.levels.count(1) == 1
    assert all(after <= before + 1 for before, after in zip(outline.levels, outline.levels[1:], strict=False))
    assert outline.heads == outline.scoped
    assert outline.tables == outline.captions
    assert "url(" not in page
    assert "@import" not in page


def test_the_policy_lets_only_its_own_script_run(page: str) -> None:
    policy = re.search(r'Content-Security-Policy" content="([^"]*)"', page)
    scripts = re.findall(r"<script>(.*?)</script>", page, re.DOTALL)
    assert policy
    assert len(scripts) == 1
    digest = base64.b64encode(hashlib.sha256(scripts[0].encode()).digest()).decode()
    assert f"script-src 'sha256-{digest}'" in policy[1]
    assert policy[1].startswith("default-src 'none';")
    assert " on" + "click" not in page


def test_the_first_line_is_the_bound_and_verdicts_come_before_evidence(page: str) -> None:
    visible = re.sub(r"<[^>]+>", " ", page[page.index("<header>") :]).split()
    assert " ".join(visible[:5]) == "Theft figures are lower bounds:"
    order = ["h-verdicts", "h-tested", "h-untested", "h-table", "h-terms", "h-heat", "h-budget", "h-sweeps"]
    order += ["h-residual", "h-fidelity", "h-controls", "h-cost", "h-grounds", "h-faq", "h-cells", "h-repeat"]
    places = [page.index(f'id="{name}"') for name in order]
    assert places == sorted(places)


def cards(page: str) -> dict[int, str]:
    """The verdicts by their place in the results."""
    return {int(number): card for number, card in re.findall(r'(?s)<article[^>]* id="v(\d+)"(.*?)</article>', page)}


def test_says_of_each_verdict_what_a_reader_must_know(full: Results, page: str) -> None:
    found = cards(page)
    assert sorted(found) == list(range(1, len(full.verdicts) + 1))
    for number, verdict in enumerate(full.verdicts, 1):
        text = re.sub(r"<[^>]+>", "", found[number]).replace("&#39;", "'")
        assert verdict.reason in text
        assert sentence(verdict, full.about["defense"]) in text
        for fact in wording.facts(verdict):
            assert fact.label in text
            assert fact.text.replace("`", "") in text
        assert verdict.theft is None or "5 seeds, the worst of 2 keys" in text
        worst = next(f for f in full.figures if f.place == verdict.place and f.choice == "worst")
        assert len(worst.per_seed) == 5
        assert all(f"{s.seed}: {s.counted:.2f} [{s.low:.2f}, {s.high:.2f}] by" in text for s in worst.per_seed)
    for name, flag in full.flags.items():
        told = page[page.index(f'id="flag-{name.lower()}"') :][:900]
        assert all(
            part in told for part in (flag.raised_if, flag.means, flag.do, "Raised if", "What it means", "What to do")
        )
    assert all(line.replace("'", "&#39;") in page for line in full.untested)


def test_controls_stand_beside_a_verdict_only_where_it_rests_on_them(full: Results, page: str) -> None:
    found = cards(page)
    doubted = [v for v in full.verdicts if any(not full.controls[k].passed for k in v.rests_on)]
    assert 0 < len(doubted) < len(full.verdicts)
    for number, verdict in enumerate(full.verdicts, 1):
        for k, control in enumerate(full.controls):
            if not control.passed:
                assert (control.explanation in found[number]) == (k in verdict.rests_on)


def test_the_picture_shows_each_bar_from_the_plain_merge_to_the_worst_case(full: Results) -> None:
    drawn = bars.bars(full)
    assert [bar.number for bar in chain(*drawn.values())]
    for bar in chain(*drawn.values()):
        verdict = full.verdicts[bar.number - 1]
        assert bar.worst == (verdict.counted or verdict.theft)
        assert bar.naive == next(
            f.counted.mean for f in full.figures if f.place == verdict.place and f.choice == "naive" and f.counted
        )
        text = bars.svg(bar, 0.5)
        assert escape(bar.summary) in text
        ends = {float(x) for x in re.findall(r'<circle class="(?:worst[^"]*|naive)" cx="([\d.]+)%"', text)}
        values = [bar.naive] if bar.worst is None else [bar.naive, bar.worst.mean]
        assert sorted(ends) == pytest.approx(sorted({2 + 96 * value for value in values}), abs=0.01)
    for here in drawn.values():
        assert "none" not in {bar.verdict.defense for bar in here[:-1]}, "the baseline stands last"


def test_what_was_tested_says_only_what_is_known(full: Results) -> None:
    bare = full.model_copy(update={"environment": {"redteam": "0.1.0"}})
    labels = [fact.label for fact in wording.tested(bare)]
    assert "Versions" in labels
    assert not {"Run", "Machine", "Commit"} & set(labels)
    whole = {fact.label: fact.text for fact in wording.tested(full)}
    assert "2026-11-27 00:10, took 61 s" in whole["Run"]
    assert "git checkout 0123456789ab" in whole["Commit"]
    render(bare)


def test_whatever_a_plugin_says_stays_text(full: Results) -> None:
    verdict = full.verdicts[0].model_copy(
        update={"defense": EVIL, "reason": EVIL, "attack": EVIL, "merger": EVIL, "scenario": EVIL, "threat": EVIL}
        | {"rests_on": (0,)}
    )
    figure = full.figures[0].model_copy(update={"defense": EVIL, "attack": EVIL, "merger": EVIL, "labels": 8.0})
    more = figure.model_copy(update={"labels": 32.0, "threat": EVIL})
    control = full.controls[0].model_copy(
        update={"explanation": EVIL, "attack": EVIL, "defense": EVIL, "passed": False}
    )
    cell = full.cells[0].model_copy(update={"attack": EVIL, "defense": EVIL, "status": "error", "reason": EVIL})
    page = render(
        full.model_copy(
            update={
                "verdicts": (verdict,),
                "figures": (figure, more),
                "controls": (control,),
                "cells": (cell,),
                "command": EVIL,
                "plan": {**full.plan, "name": EVIL},
                "untested": (EVIL,),
                "about": {"defense": {EVIL: EVIL}},
            }
        )
    )
    assert page.count("<script>") == 1
    assert "alert(1)</script>" not in page
    assert "49" not in re.findall(r"<h1>.*?</h1>", page)[0]
    assert Outline(page).asks == []


def test_stays_small_enough_to_be_mailed(full: Results, page: str) -> None:
    assert LIMIT == 5_000_000
    assert len(page.encode()) < LIMIT
    assert "cells are left out" not in page
    odd = full.cells[-1].model_copy(update={"status": "error", "reason": "the last of all"})
    cut = render(full.model_copy(update={"cells": (*full.cells, odd)}), limit=900_000)
    assert len(cut.encode()) < 900_000
    left_out = re.search(r"(\d+) cells are left out", cut)
    assert left_out
    shown = len(re.findall(r"<tr><td>", cut[cut.index('id="cells"') : cut.index('id="repeat"')]))
    assert shown + int(left_out[1]) == len(full.cells) + 1
    assert "<td>the last of all" not in page
    assert ">the last of all" in cut, "those that failed are never the ones left out"


def test_of_many_controls_those_that_failed_are_all_there(full: Results) -> None:
    passed = next(control for control in full.controls if control.passed)
    failed = passed.model_copy(update={"passed": False, "explanation": "what went wrong"})
    page = render(full.model_copy(update={"controls": (*[passed] * 400, *[failed] * 400)}))
    assert "The first 300 of them; results.json" in page
    assert page.count(">what went wrong<") == 400
    assert page.count(passed.explanation) < 320
    assert "The first 300 of them" not in render(full)


def test_a_run_of_the_least_is_still_a_page(made: Any) -> None:
    small = made(seeds=1, scenarios=("digits",), defenses=("mergelock",), threats=("weights-only",), mergers=("ties",))
    bare = small.model_copy(
        update={
            "figures": (),
            "flags": {},
            "threats": {},
            "about": {},
            "settings": {},
            "untested": (),
            "coverage": None,
        }
    )
    page = render(bare)
    assert "What was not tested" in page
    assert "everything that this plan does not name" in page
    assert "Theft over budget" not in page
    assert "Sweeps and drift" not in page
    assert Outline(page).asks == []


def test_answers_only_the_doubts_that_apply(full: Results, made: Any) -> None:
    small = made(scenarios=("digits",), defenses=("mergelock",), threats=("weights-only",))
    assert "Fine-tuning with labels is no theft" in render(full)
    assert "Fine-tuning with labels is no theft" not in render(small)
    assert "The fit works only near the base" not in render(small)


def test_lines_differ_by_more_than_colour() -> None:
    signs = [re.sub(r'class="[sm]\d"', "", charts.swatch(style)) for style in range(12)]
    assert len(set(signs)) == 12


def test_the_page_knows_no_plugin_by_name() -> None:
    folder = Path(redteam_reports.__path__[0])
    text = "\n".join(
        path.read_text("utf-8") for path in folder.rglob("*") if path.suffix in (".py", ".j2", ".js", ".css")
    )
    names = {name for registry in (ATTACKS, DEFENSES, MERGERS, SCENARIOS) for name in registry.names}
    common = {
        "none",
        "base",
        "balance",
        "permutation",
        "rotation",
        "scaling",
        "linear",
        "digits",
        "folder",
        "imitation",
    }  # words of the language too
    assert {name for name in names - common if re.search(rf"(?<![\w-]){re.escape(name)}(?![\w-])", text)} == set()


def test_what_keeps_every_expert_whole_has_a_table_of_its_own(full: Results, page: str) -> None:
    title = "Mergers that keep every expert whole"
    assert title not in page
    made = render(full.model_copy(update={"whole": KEPT}))
    part = made.partition('<section id="whole"')[2].partition("</section>")[0]
    assert title in part
    for text in ("0.97 [0.93, 1.00]", "2.09 ×", "1.00 ×", "gauge-fit", "adds too little &lt;here&gt;"):
        assert text in part
    assert part.count("<tr>") == 3
