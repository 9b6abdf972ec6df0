"""Steps run in topological order, once, and only where something needs them. The computations are stood in for."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from redteam.checkpoint import Checkpoint
from redteam.errors import IllegalGauge, Inapplicable
from redteam.evaluation import computations
from redteam.evaluation.runner.scheduler import Scheduler, behind
from redteam.evaluation.runner.store import Store
from redteam.evaluation.steps import Cost, Locked, Outcome, Record, Recovered, Step
from tests.evaluation.merges import alone as scored

Settled = Callable[[Step, Outcome], None]


@pytest.fixture
def ran(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The steps that were computed, in this order."""
    ran: list[str] = []

    def run_step(step: Step, store: Store) -> Record:
        ran.append(step.label)
        if step.settings.get("fails"):
            raise ValueError("by request")
        if step.settings.get("refuses"):
            raise Inapplicable("it is not for such shapes")
        if step.settings.get("illegal"):
            raise IllegalGauge("no rotation is legal here")
        for need in step.inputs.values():
            assert store.get(need) is not None
        if step.makes:
            store.put_artefact(step.name, Checkpoint.of({"w": torch.ones(1)}, {}))
        return Locked(step.label) if step.kind == "lock" else Recovered(step.label, None, {}, None, Cost(0.0))

    monkeypatch.setattr(computations, "run_step", run_step)
    return ran


def scheduler(store: Store, settled: Settled = lambda step, outcome: None) -> Scheduler:
    return Scheduler(store, pool=None, time_limit=1, settled=settled)


def step(label: str, inputs: dict[str, Step] | None = None, *, makes: bool = False, **settings: Any) -> Step:
    names = {role: one.name for role, one in (inputs or {}).items()}
    return Step.of("attack", label, settings={"label": label, **settings}, inputs=names, makes=makes)


def chain() -> tuple[Step, Step, Step]:
    lock = step("lock", makes=True)
    attack = step("attack", {"lock": lock}, makes=True)
    return lock, attack, step("merge", {"victim": attack})


class TestOrder:
    def test_inputs_first_and_what_is_merged_is_dropped_when_nobody_waits(self, ran: list[str], tmp_path: Path) -> None:
        store, held = Store(tmp_path), []
        lock, attack, merge = chain()

        def settled(one: Step, outcome: Outcome) -> None:
            held.append([s.label for s in (lock, attack) if store.has_artefact(s.name)])

        made = scheduler(store, settled)
        assert made.add([lock, attack, merge]) == 3
        made.run()
        assert ran == ["lock", "attack", "merge"]
        assert held == [["lock"], ["attack"], []]
        assert {outcome.status for outcome in made.outcomes.values()} == {"ok"}
        assert made.pending == 0

    def test_locks_are_kept_for_attacks_that_may_come(self, ran: list[str], tmp_path: Path) -> None:
        store = Store(tmp_path)
        lock = Step.of("lock", "lock", settings={"seed": 0}, makes=True)
        made = scheduler(store)
        made.add([lock, step("attack", {"lock": lock})])
        made.run()
        assert store.has_artefact(lock.name)
        made.add([lock, step("another", {"lock": lock})])
        made.run()
        assert ran == ["lock", "attack", "another"]

    def test_of_what_is_ready_the_lowest_priority_first(self, ran: list[str], tmp_path: Path) -> None:
        made = scheduler(Store(tmp_path))
        made.add([step("late"), step("later")], priority=1)
        made.add([step("early")], priority=0)
        made.run()
        assert ran == ["early", "late", "later"]

    def test_steps_that_are_added_while_others_run_are_computed(self, ran: list[str], tmp_path: Path) -> None:
        lock, attack, merge = chain()

        def settled(one: Step, outcome: Outcome) -> None:
            if one is attack:
                made.add([lock, attack, merge])

        made = scheduler(Store(tmp_path), settled)
        made.add([lock, attack])
        made.run()
        # What was merged is dropped at once, and so is made anew for what comes later.
        assert ran.count("merge") == 1
        assert made.outcomes[merge.name].status == "ok"

    def test_behind_finds_what_is_needed_inputs_first(self) -> None:
        lock, attack, merge = chain()
        other = step("other")
        steps = {one.name: one for one in (merge, other, attack, lock)}
        assert behind(steps, [merge.name]) == [lock, attack, merge]
        assert behind(steps, [attack.name, other.name]) == [lock, attack, other]


class TestAgain:
    def test_what_has_a_record_is_settled_already(self, ran: list[str], tmp_path: Path) -> None:
        first = scheduler(Store(tmp_path))
        first.add(chain())
        first.run()
        ran.clear()
        again = scheduler(Store(tmp_path))
        assert again.add(chain()) == 0
        again.run()
        assert ran == []
        assert {outcome.status for outcome in again.outcomes.values()} == {"ok"}

    def test_only_what_is_missing_and_what_it_needs(self, ran: list[str], tmp_path: Path) -> None:
        store = Store(tmp_path)
        lock, attack, merge = chain()
        other = step("other lock", makes=True)
        first = scheduler(store)
        first.add([lock, attack, other, step("spare", {"lock": other}, makes=True)])
        first.run()
        store.clear_work()
        ran.clear()
        again = scheduler(store)
        assert again.add([lock, attack, other, step("spare", {"lock": other}, makes=True), merge]) == 3
        again.run()
        assert ran == ["lock", "attack", "merge"], "their checkpoints are gone; nobody needs the others'"

    def test_what_still_has_its_checkpoint_is_not_made_anew(self, ran: list[str], tmp_path: Path) -> None:
        store = Store(tmp_path)
        lock, attack, merge = chain()
        first = scheduler(store)
        first.add([lock, attack])
        first.run()
        store.put_artefact(attack.name, Checkpoint.of({"w": torch.ones(1)}, {}))
        ran.clear()
        again = scheduler(store)
        assert again.add([lock, attack, merge]) == 1
        again.run()
        assert ran == ["merge"]


class TestFailures:
    def test_are_passed_on_however_long_the_chain(self, ran: list[str], tmp_path: Path) -> None:
        steps = [step("first", fails=True)]
        for index in range(3000):
            steps.append(step(f"{index}", {"before": steps[-1]}))
        made = scheduler(Store(tmp_path))
        made.add(steps)
        made.run()
        assert ran == ["first"]
        assert made.outcomes[steps[0].name].status == "error"
        last = made.outcomes[steps[-1].name]
        assert last.status == "skipped"
        assert last.reason.startswith("first: ValueError: by request")
        assert list((tmp_path / "cells").iterdir()) == []

    def test_what_comes_later_and_needs_what_failed_is_skipped_as_well(self, ran: list[str], tmp_path: Path) -> None:
        lock = step("lock", makes=True, fails=True)
        made = scheduler(Store(tmp_path))
        made.add([lock])
        made.run()
        attack = step("attack", {"lock": lock})
        made.add([lock, attack])
        made.run()
        assert ran == ["lock"], "it is not tried again"
        assert made.outcomes[attack.name].status == "skipped"

    def test_that_an_attack_is_not_for_such_a_lock_is_no_error(self, ran: list[str], tmp_path: Path) -> None:
        attack = step("attack", refuses=True)
        merge = step("merge", {"victim": attack})
        made = scheduler(Store(tmp_path))
        made.add([attack, merge])
        made.run()
        for one in (attack, merge):
            outcome = made.outcomes[one.name]
            assert (outcome.status, outcome.inapplicable) == ("skipped", True)
            assert "not for such shapes" in outcome.reason

    def test_what_does_not_apply_is_not_tried_by_the_next_run_and_what_failed_is(
        self, ran: list[str], tmp_path: Path
    ) -> None:
        store, lock, fails = Store(tmp_path), step("lock", makes=True), step("fails", fails=True)
        attack, other = step("attack", {"lock": lock}, refuses=True), step("other", illegal=True)
        both = step("both", {"lock": lock, "attack": attack})
        steps = [lock, attack, other, both, fails]
        before = scheduler(store)
        before.add(steps)
        before.run()
        assert ran == ["lock", "attack", "other", "fails"]
        store.clear_work()
        ran.clear()
        again = scheduler(store)
        again.add(steps)
        again.run()
        assert ran == ["fails"], "nor is the lock put on again that only they would have read"
        assert again.outcomes == before.outcomes

    def test_what_an_attack_undoes_does_not_exist_everywhere_but_a_lock_that_cannot_be_put_on_failed(
        self, ran: list[str], tmp_path: Path
    ) -> None:
        attack, lock = step("attack", illegal=True), replace(step("lock", illegal=True), kind="lock")
        made = scheduler(Store(tmp_path))
        made.add([attack, lock])
        made.run()
        assert ran == ["attack", "lock"]
        found = [made.outcomes[one.name] for one in (attack, lock)]
        assert [(outcome.status, outcome.inapplicable) for outcome in found] == [("skipped", True), ("error", False)]
        assert all("no rotation" in outcome.reason for outcome in found)

    def test_a_record_survives_the_failure_to_make_its_checkpoint_again(
        self, ran: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        store, lock = Store(tmp_path), step("lock", makes=True)
        first = scheduler(store)
        first.add([lock])
        first.run()
        store.clear_work()
        merge = step("merge", {"victim": lock})

        def full(*_: object) -> None:
            raise OSError(28, "No space left on device")

        monkeypatch.setattr(Store, "put_artefact", full)
        again = scheduler(store)
        again.add([lock, merge])
        again.run()
        assert again.outcomes[lock.name].status == "ok"
        assert again.outcomes[merge.name].status == "skipped"
        assert "No space left" in again.outcomes[merge.name].reason


class TestLimits:
    """What a pool is told a step may take."""

    @staticmethod
    def told(store: Store, limit: float | None, steps: list[Step]) -> dict[str, float]:
        from types import SimpleNamespace

        found: dict[str, float] = {}
        pool: Any = SimpleNamespace(start=lambda name, *_, seconds, memory: found.__setitem__(name, seconds))
        made = Scheduler(store, pool=pool, time_limit=limit, settled=lambda *_: None)
        made.add(steps)
        for one in steps:
            if one.name not in made.outcomes:
                made._start(one.name)
        return {one.label: found[one.name] for one in steps if one.name in found}

    def test_it_follows_from_how_long_the_models_take_to_score(self, tmp_path: Path) -> None:
        store = Store(tmp_path)
        alone, attack = Step.of("alone", "alone", settings={}), step("attack")
        assert self.told(store, None, [alone, attack]) == {"alone": float("inf"), "attack": 300.0}
        assert self.told(store, 5.0, [alone, attack]) == {"alone": 5.0, "attack": 5.0}
        store.put(alone, replace(scored(), seconds=2.0))
        assert self.told(store, None, [alone, attack]) == {"attack": 300.0}
        other = Step.of("alone", "slower", settings={"seed": 1})
        store.put(other, replace(scored(), seconds=100.0))
        assert self.told(store, None, [alone, other, attack]) == {"attack": 3000.0}
