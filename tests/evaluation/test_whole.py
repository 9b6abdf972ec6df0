"""Mergers that keep every expert whole: tried as the others are, shown beside verdicts, and counted by none."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from redteam.errors import BadPlan
from redteam.evaluation.aggregate import figures
from redteam.evaluation.controls.gain import gains
from redteam.evaluation.plan import Plan
from redteam.evaluation.resolve import Resolved
from redteam.evaluation.steps import Step
from redteam.evaluation.whole import whole_merges
from tests.evaluation.layouts import Watched
from tests.evaluation.merges import PLACE, Bench, merge

WHOLE = {"stored": 2.1, "inference": 1.0}
MEAN = "task-arithmetic"


def kept(victim: float) -> Any:
    """A merge that keeps every expert whole."""
    return replace(merge(victim), **WHOLE)


class TestRows:
    @pytest.fixture
    def bench(self) -> Bench:
        """A lock that an attack does not undo, and which such a merger walks around."""
        bench = Bench()
        bench.ground(merger="keeps", without=merge(0.3, 0.8, 0.8), reference=kept(0.8))
        for merger, made, whole in (("mean", merge(0.3), False), ("keeps", kept(0.8), True)):
            bench.pair("none", made, role="naive", merger=merger, whole=whole)
            bench.pair("fit", merge(0.35) if not whole else kept(0.7), merger=merger, whole=whole)
        return bench

    def test_no_choice_and_no_gain_is_of_them(self, bench: Bench) -> None:
        found = figures(bench.table, bench.asked(), bench.pairings)
        chosen = {f.choice: f for f in found if f.choice != "attack"}
        assert {f.merger for f in chosen.values()} == {"mean"}
        assert chosen["naive"].theft.mean == 0.0
        assert {(f.merger, f.whole) for f in found} == {("mean", False), ("keeps", True)}
        assert set(gains(bench.table, bench.asked())) == {"mean"}

    def test_each_has_a_row_with_what_it_costs(self, bench: Bench) -> None:
        (row,) = whole_merges(bench.table, PLACE, bench.pairings, excluded=frozenset())
        assert (row.merger, row.stored, row.inference, row.cells) == ("keeps", 2.1, 1.0, 2)
        assert (row.gain.mean, row.theft.mean, row.attacked.mean, row.attack) == (
            pytest.approx(0.625),
            1.0,
            1.0,
            "none",
        )

    def test_what_counts_for_nothing_does_so_here(self, bench: Bench) -> None:
        bench.pair("cheat", kept(0.8), merger="keeps", whole=True)
        mine = [p for p in bench.pairings if p.role != "naive"]
        (row,) = whole_merges(bench.table, PLACE, mine, excluded=frozenset({"cheat"}))
        assert (row.theft, row.attack, row.attacked.mean) == (None, "fit", pytest.approx(0.8))

    def test_where_the_victim_adds_nothing_there_is_no_theft(self) -> None:
        bench = Bench()
        bench.ground(merger="keeps", without=merge(0.3), reference=kept(0.31))
        bench.pair("none", kept(0.31), role="naive", merger="keeps", whole=True)
        (row,) = whole_merges(bench.table, PLACE, bench.pairings, excluded=frozenset())
        assert (row.theft, row.attacked, row.stored) == (None, None, 2.1)
        assert "adds too little" in row.reason

    def test_what_failed_has_its_reason_and_leaves_the_verdict_alone(self, bench: Bench) -> None:
        bench.pair("slow", {"status": "timeout", "reason": "took too long"}, merger="keeps", whole=True)
        (row,) = whole_merges(bench.table, PLACE, bench.pairings, excluded=frozenset())
        assert (row.reason, row.cells, row.attack) == ("took too long", 2, "none")


class Split(Watched):
    """A place where emr alone steals so much of the lock, whatever the attack."""

    emr = 0.0

    def _stolen(self, step: Step) -> float:
        made = super()._stolen(step)
        locked = "victim" in step.inputs and "unlocked" not in self.design.steps[step.inputs["victim"]].settings
        return self.emr if locked and step.settings["merger"][0][0] == "emr" else made


@pytest.mark.parametrize(("emr", "procrustes", "last"), [(0.0, 1.0, "procrustes"), (1.0, 0.0, "gauge-fit")])
def test_a_gauntlet_goes_on_for_the_others_alone_and_is_theirs_to_close(
    emr: float, procrustes: float, last: str
) -> None:
    ladder = ("hungarian", "procrustes", "gauge-fit")
    plan = {"defenses": ("mergelock",), "attacks": (), "mergers": (MEAN, "emr")}
    split = Split(plan, {"procrustes": procrustes}, ladder=ladder)
    split.emr = emr
    split.to_the_end()
    ran = {merger: {p.attack for p in split.progress.run if p.merger == merger} for merger in (MEAN, "emr")}
    assert set(ladder[: ladder.index(last) + 1]) == ran[MEAN] & set(ladder) == ran["emr"] & set(ladder)


def test_a_plan_needs_a_merger_that_a_verdict_counts(toys: Any) -> None:
    plan = toys.plan(("rotation",), (), mergers=("emr", "emr:rescale=tensor"))
    with pytest.raises(BadPlan, match="No verdict counts emr and emr:rescale=tensor"):
        Resolved.of(Plan.of(plan), Path())


class TestRun:
    @pytest.fixture(scope="class")
    @classmethod
    def done(cls, once: Any, toys: Any) -> Any:
        return once("whole", toys.plan(("rotation",), ("procrustes",), mergers=("emr", "task-arithmetic")))

    def test_the_verdict_is_the_same_as_without_it(self, done: Any, once: Any, toys: Any) -> None:
        alone = once("without-whole", toys.plan(("rotation",), ("procrustes",), mergers=("task-arithmetic",)))
        (one,), (other,) = done.results.verdicts, alone.results.verdicts
        assert (one.verdict, one.reason, one.theft, one.flags) == (
            other.verdict,
            other.reason,
            other.theft,
            other.flags,
        )
        done.decide_anew()

    def test_it_is_shown_with_what_it_costs(self, done: Any) -> None:
        (row,) = done.results.whole
        assert (row.merger, row.defense) == ("emr", "rotation")
        assert 2.0 < row.stored < 2.2
        assert 0.5 < row.inference < 2.0
        assert row.attacked.mean >= 0.9
        frame = done.results.to_frame("whole")
        assert frame["theft"].tolist() == [row.theft.mean]
        assert not any("keep every expert whole" in line for line in done.results.untested)

    def test_no_attack_runs_for_them_alone(self, done: Any) -> None:
        counted = {c.attack for c in done.results.cells if c.merger == MEAN and c.role in ("naive", "recovery")}
        assert {c.attack for c in done.results.cells if c.merger == "emr"} == counted
        assert {"none", "none×0.5", "procrustes"} <= counted

    def test_controls_and_the_holder_of_the_key_run_with_the_others_alone(self, done: Any) -> None:
        assert {c.role for c in done.results.cells if c.merger == "emr"} == {"naive", "recovery"}
        assert not any("emr" in c.explanation for c in done.results.controls if c.control != "gain")


def test_a_merger_that_does_not_return_what_it_declares_is_an_error(once: Any, toys: Any) -> None:
    plan = toys.plan(("rotation",), (), mergers=("task-arithmetic", toys.named("half-whole")))
    found = once("half-whole", plan).results
    (told,) = {c.reason for c in found.cells if c.status != "ok"}
    assert "returned an object of type Checkpoint; expected a Whole" in told
    (row,) = found.whole
    assert (row.reason, row.theft, row.cells) == (told, None, 0)
    assert found.exit_code == 2
