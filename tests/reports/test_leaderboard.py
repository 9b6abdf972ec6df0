"""The leaderboard: who stands best first, claims beside what was found, and nothing that the results do not hold."""

from __future__ import annotations

from typing import Any

import pytest
from redteam_reports import leaderboard, markdown, results_html

from redteam.evaluation.results import Results

EVIL = "down | by <b>95 %</b>"


@pytest.fixture(scope="module")
def results(made: Any) -> Results:
    few: Results = made(scenarios=("digits",), mergers=("ties",))
    figures = tuple(f.model_copy(update={"spared": 3}) if f.attack == "procrustes" else f for f in few.figures)
    verdicts = (few.verdicts[0].model_copy(update={"by": {"gauge-fit": 4, "graft": 1}}), *few.verdicts[1:])
    return few.model_copy(
        update={
            "gauntlets": {"gauntlet-1": ("graft", "procrustes", "gauge-fit")},
            "claims": {few.verdicts[0].defense: EVIL},
            "figures": figures,
            "verdicts": verdicts,
        }
    )


def test_every_verdict_has_its_row_and_the_best_stands_first(results: Results) -> None:
    rows = leaderboard.rows(results)
    assert sum(map(len, rows.values())) == len(results.verdicts)
    for here in rows.values():
        words = [leaderboard.ORDER.index(row.verdict.verdict) for row in here]
        assert words == sorted(words)
        for word in set(words):
            stolen = [
                (row.verdict.counted or row.verdict.theft).mean
                for row, w in zip(here, words, strict=True)
                if w == word and (row.verdict.counted or row.verdict.theft)
            ]
            assert stolen == sorted(stolen)


def test_what_a_source_claims_stands_beside_and_is_escaped(results: Results) -> None:
    first = results.verdicts[0]
    row = next(r for here in leaderboard.rows(results).values() for r in here if r.verdict == first)
    assert row.claim == EVIL
    assert "`gauge-fit` 4×, `graft` 1×" in row.theft
    assert EVIL not in results_html.render(results)
    assert "down | by &lt;b&gt;95 %" in results_html.render(results)
    assert "down \\| by" in leaderboard.markdown(results)


def test_evidence_counts_what_ran_and_what_it_undid(results: Results) -> None:
    row = next(iter(leaderboard.rows(results).values()))[0]
    where = (row.verdict.scenario, row.verdict.defense, row.verdict.threat)
    ran = {
        f.attack
        for f in results.figures
        if (f.scenario, f.defense, f.threat) == where and f.role == "recovery" and f.status == "ok"
    }
    assert f"{len(ran)} attacks ran" in row.evidence


def test_a_row_that_met_the_stubborn_cases_alone_says_so(results: Results, tmp_path: Any) -> None:
    cells = next(f.cells for f in results.figures if f.attack == "procrustes" and f.status == "ok")
    markdown.write(results, tmp_path / "r.md")
    for text in (results_html.render(results), (tmp_path / "r.md").read_text()):
        assert f"n={cells} of {cells + 3}" in text


def test_without_a_gauntlet_there_is_none(made: Any) -> None:
    page = results_html.render(made(scenarios=("digits",), mergers=("ties",), seeds=1))
    assert 'id="leaderboard"' not in page
