"""The leaderboard: who stands best first, claims beside what was found, and nothing that the results do not hold."""

from __future__ import annotations

from typing import Any

import pytest
from redteam_reports import leaderboard, markdown, results_html

from redteam.cli.answer import answer
from redteam.disagreement import disagreements
from redteam.evaluation.results import OverVictims, Results
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


def two_scenarios(results: Results) -> Results:
    """The same verdicts on a second scenario, where one lock holds that falls on the first, and one falls otherwise."""
    words = {"mergelock": "HOLDS-SO-FAR", "permutation": "INEFFECTIVE", "lottery": "UNSCORABLE"}
    here = [v for v in results.verdicts if v.threat == "weights-only"]
    there = [
        v.model_copy(
            update={
                "scenario": "texts", "verdict": words.get(v.defense, v.verdict),
                **({"counted": at(0.12), "theft": at(0.12)} if v.defense == "mergelock" else {}),
            }
        )
        for v in here
    ]  # fmt: skip
    return results.model_copy(update={"verdicts": (*here, *there), "subjects": ()})


def test_where_scenarios_disagree_is_said_first_with_both_figures(results: Results) -> None:
    two = two_scenarios(results)
    found = disagreements(two)
    assert [one.defense for one in found] == ["mergelock", "permutation"], "what holds somewhere comes first"
    theft = next(v.counted or v.theft for v in two.verdicts if v.defense == "mergelock")
    told = f"`mergelock`: BROKEN on `digits` ({theft}), HOLDS-SO-FAR on `texts` (0.12 [0.12, 0.12])"
    text = leaderboard.markdown(two)
    assert text.index(told) < text.index("## digits")
    report = "\n".join(part for part in markdown._parts(two) if part)
    assert report.index(told) < report.index("**digits, weights-only**")
    page = results_html.render(two)
    assert page.index("Not alike everywhere") < page.index("<h3>digits, weights-only</h3>")
    assert "<code>mergelock</code>: BROKEN on <code>digits</code>" in page
    assert "Not alike everywhere: mergelock: BROKEN on digits" in " ".join(answer(two).split())


def test_where_they_agree_nothing_is_said(results: Results) -> None:
    for text in (leaderboard.markdown(results), results_html.render(results), answer(results)):
        assert "Not alike" not in text


def test_words_are_compared_under_one_threat_model(results: Results) -> None:
    here = next(v for v in results.verdicts if v.defense == "mergelock" and v.threat == "weights-only")
    there = here.model_copy(update={"threat": "data-rich", "verdict": "INCONCLUSIVE"})
    assert disagreements(results.model_copy(update={"verdicts": (here, there)})) == ()


def over(defense: str, word: str, theft: float, **rest: Any) -> OverVictims:
    victims = {name: f"digits:victim={name}" for name in ("digits", "letters", "shapes")}
    fallen = tuple(victims)[: 2 if word == "BROKEN" else 0]
    return OverVictims(
        scenario="digits:victim=each", defense=defense, threat="weights-only", verdict=word, victims=victims,
        reason=f"{word} on some", fallen=fallen, theft=at(theft), by={"letters": 5}, attack="gauge-fit",
        merger="ties", protection=at(0.9), **rest,
    )  # fmt: skip


def test_rows_over_victims_stand_in_front(results: Results) -> None:
    rows = (
        over("none", "INEFFECTIVE", 1.0, gated=False),
        over("weak|er", "BROKEN", 0.8),
        over("strong", "HOLDS-SO-FAR", 0.1),
    )
    given = results.model_copy(update={"over_victims": rows})
    (board,) = leaderboard.over_victims(given).values()
    assert [row.defense for row in board] == ["strong", "weak|er", "none"]
    text = leaderboard.markdown(given)
    assert "| `weak\\|er` | **BROKEN 2/3** | 0.80 [0.80, 0.80] | letters | BROKEN on some |" in text
    assert text.index("the worst of all victims") < text.index("## digits, weights-only")
    page = results_html.render(given)
    assert page.index("the worst of all victims") < page.index("<h3>digits, weights-only</h3>")
    assert ">BROKEN 2/3</span>" in page
    said = " ".join(answer(given.model_copy(update={"verdicts": ()}), width=120).split())
    assert "BROKEN 2/3 weak|er" in said
    assert "half or more of what the victim adds is stolen on 2 of 3 victims (digits, letters)" in said
    assert "strong held against everything that was tried on each of three victims" in said


def test_of_what_is_sealed_pages_say_whose_fidelity_it_is(results: Results, tmp_path: Any) -> None:
    verdicts = tuple(v.model_copy(update={"threat": "sealed"}) for v in results.verdicts if v.threat == "weights-only")
    subjects = tuple(s.model_copy(update={"threat": "sealed"}) for s in results.subjects if s.threat == "weights-only")
    figures = tuple(f.model_copy(update={"threat": "sealed"}) for f in results.figures if f.threat == "weights-only")
    threats = {"sealed": "What is released does not run alone."}
    update = {"verdicts": verdicts, "subjects": subjects, "figures": figures, "threats": threats}
    sealed = results.model_copy(update=update)
    for writer, name in ((markdown, "x.md"), (results_html, "x.html")):
        shown = []
        for one in (results, sealed):
            writer.write(one, tmp_path / name)
            shown.append((tmp_path / name).read_text())
        assert "whoever holds the key" not in shown[0]
        assert "as whoever holds the key runs it" in shown[1]
    assert "Fidelity of the protected model by dtype" in shown[1]
    assert "Fidelity of the protected model alone" in shown[0]
    assert "there it is that of whoever holds the key" in leaderboard.markdown(sealed)
    assert "holds the key" not in leaderboard.markdown(results)
