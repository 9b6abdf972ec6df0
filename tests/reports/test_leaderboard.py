"""The leaderboard: who stands best first, claims beside what was found, and nothing that the results do not hold."""

from __future__ import annotations

from typing import Any

import pytest
from redteam_reports import leaderboard, markdown, results_html

from redteam.evaluation.results import Results
from redteam.evaluation.statistics import Interval

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


def test_ranks_go_by_theft_among_those_that_keep_the_accuracy(results: Results) -> None:
    boards = leaderboard.rows(results)
    assert sum(map(len, boards.values())) == len(results.verdicts)
    for here in boards.values():
        ranks = [row.rank for row in here]
        count = sum(rank is not None for rank in ranks)
        assert ranks == [*range(1, count + 1), *[None] * (len(here) - count)]
    order = [row.verdict.defense for row in boards["digits", "weights-only"]]
    assert order[0] == "null-shift+rotation", "it holds; the one that falls on one seed of five steals less on average"
    assert order.index("lottery") < len(order) - 4
    below = [row.verdict.defense for row in boards["digits", "weights-only"] if row.rank is None]
    assert below == ["gaussian-noise", "split-neurons", "fresh-weights", "none"]


def test_the_less_is_stolen_the_higher(results: Results) -> None:
    same = results.verdicts[2]
    changed = [
        same.model_copy(update={"defense": f"d{k}", "counted": at(theft), "theft": at(theft)})
        for k, theft in enumerate((0.7, 0.1, 0.4))
    ]
    (here,) = leaderboard.rows(results.model_copy(update={"verdicts": tuple(changed), "subjects": ()})).values()
    assert [row.verdict.defense for row in here] == ["d1", "d2", "d0"]
    assert [row.rank for row in here] == [1, 2, 3]


def at(value: float) -> Interval:
    return Interval(value, value, value, 5, "seeds")


def test_what_a_source_claims_stands_beside_and_is_escaped(results: Results) -> None:
    first = results.verdicts[0]
    row = next(r for here in leaderboard.rows(results).values() for r in here if r.verdict == first)
    assert row.claim == EVIL
    assert "`gauge-fit` on four seeds, `graft` on one seed" in row.evidence
    assert EVIL not in results_html.render(results)
    assert "down | by &lt;b&gt;95 %" in results_html.render(results)
    assert "down | by" in leaderboard.markdown(results)


def test_evidence_names_the_attacks_that_were_made_for_it_and_their_authors(results: Results) -> None:
    board = leaderboard.rows(results)["digits", "weights-only"]
    locked = next(row for row in board if row.verdict.defense == "mergelock")
    assert "made for it and run: `gauge-fit` by redteam-attacks" in locked.evidence
    idle = tuple(s.model_copy(update={"adversaries": ()}) for s in results.subjects)
    board = leaderboard.rows(results.model_copy(update={"subjects": idle}))["digits", "weights-only"]
    assert all(
        ("no attack that was made for it ran" in row.evidence) == (row.verdict.defense != "none") for row in board
    )


def test_a_row_that_met_the_stubborn_cases_alone_says_so(results: Results, tmp_path: Any) -> None:
    cells = next(f.cells for f in results.figures if f.attack == "procrustes" and f.status == "ok")
    markdown.write(results, tmp_path / "r.md")
    for text in (results_html.render(results), (tmp_path / "r.md").read_text()):
        assert f"n={cells} of {cells + 3}" in text


def test_without_a_gauntlet_it_is_a_table_of_verdicts(made: Any) -> None:
    page = results_html.render(made(scenarios=("digits",), mergers=("ties",), seeds=1))
    assert "Leaderboard" not in page
    assert "Table of verdicts" in page
