"""Runs put side by side: all their rows, each verdict as it was, and a refusal wherever that would mislead."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from redteam.errors import BadInput
from redteam.evaluation.joined import joined
from redteam.evaluation.plan import Plan
from redteam.evaluation.results import Results
from redteam.evaluation.verdict import Evidence, decide
from redteam.plugins.reference import Reference


@pytest.fixture(scope="module")
def texts(once: Callable[..., Any], toys: Any) -> Results:
    """A run on another scenario."""
    named = Reference.parse(toys.named("toy", "toy.py")).name
    plan = toys.plan(("rotation",), ("procrustes",))
    found: Results = once("texts", {**plan, "scenarios": [str(Reference(named, {"drift": 0.3}))]}).results
    return found.model_copy(update={"plan": {**found.plan, "name": "texts"}})


def test_every_verdict_rests_on_what_it_rested_on(honest: Any, texts: Results) -> None:
    both = joined({"one": honest.results, "other": texts})
    assert len(both.verdicts) == len(honest.results.verdicts) + len(texts.verdicts)
    for run in (honest.results, texts):
        for verdict in run.verdicts:
            (there,) = (one for one in both.verdicts if one.place == verdict.place)
            assert [both.controls[k] for k in there.rests_on] == [run.controls[k] for k in verdict.rests_on]
            again = decide(Evidence.of(both, verdict.place))
            assert (again.word, again.reason, again.flags) == (verdict.verdict, verdict.reason, verdict.flags)
            assert again.rests_on == there.rests_on
    assert both.cells == (*honest.results.cells, *texts.cells)
    assert both.exit_code == max(honest.results.exit_code, texts.exit_code)
    assert Results.model_validate_json(both.model_dump_json(by_alias=True)) == both


def test_it_says_of_which_runs_it_is_and_in_what_they_differ(honest: Any, texts: Results) -> None:
    newer = texts.model_copy(update={"environment": {**texts.environment, "torch": "3.0", "duration": 2.5}})
    both = joined({"one": honest.results, "other": newer})
    assert [(run.plan, run.scenarios) for run in both.runs] == [
        ("custom", ("toy",)),
        ("texts", ("toy:drift=0.3",)),
    ]
    assert both.environment["torch"] == f"{honest.results.environment['torch']}, 3.0"
    assert both.environment["engine"] == texts.environment["engine"]
    assert both.environment["duration"] == pytest.approx(honest.results.environment["duration"] + 2.5)
    resumed = {key: value for key, value in newer.environment.items() if key != "duration"}
    newer = newer.model_copy(update={"environment": resumed})
    assert "duration" not in joined({"one": honest.results, "other": newer}).environment
    assert both.coverage is not None
    assert both.coverage.planned == honest.results.coverage.planned + texts.coverage.planned  # type: ignore[union-attr]
    assert any(line.startswith("In texts: Scenarios other than toy:drift=0.3") for line in both.untested)
    assert "Mergers that keep every expert whole" in both.untested[-1] or len(both.untested) > 3


def test_its_plan_would_do_both(honest: Any, texts: Results) -> None:
    plan = Plan.of(joined({"one": honest.results, "other": texts}).plan)
    assert plan.name == "custom-and-texts"
    assert [product.scenarios for product in plan.products] == [
        tuple(honest.results.plan["scenarios"]),
        tuple(texts.plan["scenarios"]),
    ]
    assert joined({"one": honest.results, "other": texts}, name="both").plan["name"] == "both"


def test_one_run_is_itself_and_twice_the_same_counts_once(honest: Any) -> None:
    assert joined({"one": honest.results}) is honest.results
    twice = joined({"one": honest.results, "copy": honest.results})
    assert twice.verdicts == honest.results.verdicts
    assert (twice.controls, twice.figures) == (honest.results.controls, honest.results.figures)
    assert twice.grounds == honest.results.grounds


def _on_the_same(results: Results, **more: Any) -> Results:
    """A run on the same scenario with other defenses."""
    return results.model_copy(
        update={"verdicts": (), "subjects": (), "figures": (), "cells": (), "controls": (), **more}
    )


def _first(rows: Any, **changes: Any) -> Any:
    return (rows[0].model_copy(update=changes), *rows[1:])


def _other_control(results: Results) -> Results:
    """Another run's finding that an attack takes something where nothing is, wherever it is tried."""
    broken = next(v for v in results.verdicts if v.verdict == "BROKEN")
    index = next(k for k in broken.rests_on if results.controls[k].control == "gone")
    failed = results.controls[index].model_copy(update={"passed": False, "value": 1.0})
    other = next(v for v in results.verdicts if v.place != broken.place).place
    rows = {
        name: tuple(
            row.model_copy(update={"defense": "another"}) for row in getattr(results, name) if row.place == other
        )
        for name in ("verdicts", "subjects", "figures")
    }
    verdicts = tuple(row.model_copy(update={"rests_on": ()}) for row in rows["verdicts"])
    return _on_the_same(results, **{**rows, "verdicts": verdicts, "controls": (failed,)})


REFUSED: dict[str, tuple[Callable[[Results], Results], str]] = {
    "other limits": (
        lambda r: r.model_copy(update={"thresholds": {**r.thresholds, "stolen": 0.4, "digest": "x"}}),
        r"one and other were judged by different limits \(stolen 0.5 and 0.4\)",
    ),
    "other models": (
        lambda r: _on_the_same(r, grounds=_first(r.grounds, digest="0" * 64)),
        "both have a scenario toy, with other models or data under seed 0",
    ),
    "other settings": (
        lambda r: _on_the_same(r, settings={"defense": {"mergelock": [{"scale": [0.5, 2.0]}]}}),
        r"In one the defense mergelock has the settings .*scale .*, and in other scale \[0\.5, 2\.0\]",
    ),
    "another chain": (
        lambda r: _on_the_same(r, settings={"defense": {"mergelock": [{}, {}]}}),
        "In one the defense mergelock has the settings",
    ),
    "two verdicts": (
        lambda r: r.model_copy(update={"verdicts": _first(r.verdicts, verdict="INVALID")}),
        "Both one and other judge .* on toy under weights-only, and not alike",
    ),
    "controls that speak against it": (_other_control, "would be another one beside the other runs' controls"),
}


@pytest.mark.parametrize("what", REFUSED)
def test_what_would_mislead_is_refused(honest: Any, what: str) -> None:
    change, sentence = REFUSED[what]
    with pytest.raises(BadInput, match=sentence):
        joined({"one": honest.results, "other": change(honest.results)})


def test_other_members_of_a_gauntlet_are_refused(honest: Any) -> None:
    one, other = (honest.results.model_copy(update={"gauntlets": {"g": (name,)}}) for name in "ab")
    with pytest.raises(BadInput, match="g has other members in one than in other"):
        joined({"one": one, "other": other})


def test_a_setting_that_is_new_is_no_other_setting(honest: Any, texts: Results) -> None:
    """What a version adds has as its default what was before."""
    settings = {"defense": {"rotation": [{**texts.settings["defense"]["rotation"][0], "fresh": True}]}}
    newer = texts.model_copy(update={"settings": settings})
    assert len(joined({"one": honest.results, "other": newer}).runs) == 2
