"""The front and the winner, and what is said of them."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from redteam.evaluation.statistics import Interval
from redteam.search.results import Scored, SearchResults, Trial, bounded, front, winner

FIGURES = st.lists(st.tuples(st.floats(0, 1), st.floats(1e-3, 1e3)), max_size=12)


def trials(*figures: tuple[float, float]) -> list[Trial]:
    return [
        Trial(number=n, pipeline=f"a{n}", status="ok", theft=theft, seconds=seconds)
        for n, (theft, seconds) in enumerate(figures)
    ]


def found(made: list[Trial], **rest: Any) -> SearchResults:
    best = winner(made)
    return SearchResults(
        scenario="toy",
        seed=0,
        defense="mergelock",
        merger="task-arithmetic",
        threat="weights-only",
        split="validation",
        wanted=len(made),
        naive=0.0,
        space={"steps": 3, "attacks": {}},
        trials=tuple(made),
        repeated=0,
        exhausted=False,
        front=tuple(one.number for one in front(made)),
        winner=best.number if best else None,
        environment={},
        **rest,
    )


@given(FIGURES)
def test_nothing_beats_the_front_and_the_front_beats_the_rest(figures: list[tuple[float, float]]) -> None:
    made = trials(*figures)
    best = front(made)
    for one in made:
        beaten = any(
            other.theft >= one.theft and other.seconds <= one.seconds and other.number != one.number  # type: ignore[operator]
            for other in best
        )
        assert beaten or one in best
    for one in best:
        assert not any(o.theft > one.theft and o.seconds <= one.seconds for o in made)  # type: ignore[operator]
        assert not any(o.theft >= one.theft and o.seconds < one.seconds for o in made)  # type: ignore[operator]


@given(FIGURES)
def test_the_winner_is_the_cheapest_strong_one_else_the_strongest(figures: list[tuple[float, float]]) -> None:
    made, best = trials(*figures), winner(trials(*figures))
    strong = [one for one in made if one.theft >= 0.9]  # type: ignore[operator]
    if not made:
        assert best is None
    elif strong:
        assert best is not None
        assert best.seconds == min(one.seconds for one in strong)  # type: ignore[type-var]
    else:
        assert best is not None
        assert best.theft == max(one.theft for one in made)  # type: ignore[type-var]


def test_an_attack_does_not_lose_to_itself_and_something_useless() -> None:
    figures = {"fit": 1.1, "fit+idle:x=1.0": 0.4, "fit:x=2.0": 0.9, "idle:x=1.0+fit": 0.3, "fitter+fit": 0.2}
    made = [
        Trial(number=n, pipeline=text, status="ok", theft=1.0 if text.startswith("fit") else 0.5, seconds=seconds)
        for n, (text, seconds) in enumerate(figures.items())
    ]
    made.append(Trial(number=9, pipeline="fit+b", status="timeout", reason="ended after 1 s"))
    held = {one.pipeline: one.seconds for one in bounded(made)}
    assert held == {**figures, "fit": 0.4, "fit+b": None}
    best = winner(bounded([one for one in made if one.pipeline != "fitter+fit"]))
    assert best is not None
    assert best.pipeline == "fit"


def test_trials_without_figures_are_never_zeros() -> None:
    failed = Trial(number=1, pipeline="b", status="error", reason="it broke")
    assert front([failed]) == ()
    assert winner([failed]) is None
    assert "nothing is known" in found([failed]).sentences[0]
    told = found([*trials((0.2, 1.0)), failed]).sentences
    assert told[0].startswith("No attacker of theft 0.9 or more against mergelock")
    assert any("1 of 2 trials failed" in sentence for sentence in told)


@pytest.mark.parametrize(("mean", "carried"), [(0.95, True), (0.7, False)])
def test_both_figures_stand_beside_each_other(mean: float, carried: bool) -> None:
    scored = Scored(theft=Interval(mean, mean - 0.05, 1.0, 1, "test items"), seconds=0.5, verdict="BROKEN")
    told = " ".join(found(trials((0.98, 1.0)), scored=scored).sentences)
    assert "theft 0.98 in 1 s on the tuning data" in told
    assert f"{mean:.2f} [" in told
    assert f"{0.98 - mean:+.2f} is the optimism of tuning" in told
    assert ("did not carry over" in told) is not carried
