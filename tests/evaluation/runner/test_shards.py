"""Processes that share a folder: who has what, what is taken from the dead, and that all come to the same results."""

from __future__ import annotations

import os
import random
import subprocess
import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
import torch

from redteam.checkpoint import Checkpoint
from redteam.errors import BadInput
from redteam.evaluation import computations
from redteam.evaluation.run import alone_in
from redteam.evaluation.runner import scheduler as schedulers
from redteam.evaluation.runner.scheduler import Scheduler
from redteam.evaluation.runner.shards import Shard
from redteam.evaluation.runner.store import Store
from redteam.evaluation.steps import Cost, Outcome, Record, Recovered, Step

STEP = "0" * 32


def shard(root: Path, index: int = 1, count: int = 2, plan: str = "plan") -> Shard:
    return Shard(root, index, count, plan)


def dies(one: Shard) -> None:
    """What is left of a process that is killed: its files, and no lock on them."""
    one._left.set()
    assert one._lock is not None
    lock = Path(one._lock.lock_file)
    one._lock.release()
    lock.touch()
    one._lock = None


class TestClaims:
    def test_every_step_is_in_one_share(self, tmp_path: Path) -> None:
        shards = [shard(tmp_path, index, 3) for index in (1, 2, 3)]
        names = [f"{index * 2654435761 % 2**32:08x}" for index in range(300)]
        owners = [[one.index for one in shards if one.mine(name)] for name in names]
        assert all(len(some) == 1 for some in owners)
        assert all(owners.count([index]) > 60 for index in (1, 2, 3))

    def test_one_of_two_has_a_step_until_it_is_given_back(self, tmp_path: Path) -> None:
        with shard(tmp_path) as one, shard(tmp_path, 2) as other:
            assert one.take(STEP)
            assert one.take(STEP)
            assert not other.take(STEP)
            one.give_back(STEP)
            assert other.take(STEP)

    def test_of_many_that_reach_for_one_only_one_gets_it(self, tmp_path: Path) -> None:
        with shard(tmp_path) as one, shard(tmp_path, 2) as other, ThreadPoolExecutor(8) as threads:
            for step in (f"{index:032x}" for index in range(50)):
                assert sum(threads.map(lambda who, step=step: who.take(step), (one, other))) == 1

    def test_what_the_dead_had_is_free_at_once_on_this_machine(self, tmp_path: Path) -> None:
        one = shard(tmp_path).__enter__()
        with shard(tmp_path, 2) as other:
            assert one.take(STEP)
            dies(one)
            assert other.take(STEP)

    def test_what_another_machine_had_is_free_when_it_shows_no_life(self, tmp_path: Path) -> None:
        one = shard(tmp_path).__enter__()
        with shard(tmp_path, 2) as other:
            assert one.take(STEP)
            dies(one)
            sign = tmp_path / "shards" / one._name
            sign.write_text('{"host": "far away", "plan": "plan"}')
            assert not other.take(STEP)
            os.utime(sign, (0, 0))
            assert other.take(STEP)

    def test_a_claim_without_a_name_is_somebody_s_until_it_is_old(self, tmp_path: Path) -> None:
        with shard(tmp_path) as one:
            claim = tmp_path / "shards" / "claims" / STEP
            claim.touch()
            assert not one.take(STEP)
            os.utime(claim, (0, 0))
            assert one.take(STEP)

    def test_signs_of_life_are_given(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr("redteam.evaluation.runner.shards._BEAT", 0.02)
        with shard(tmp_path) as one:
            sign = tmp_path / "shards" / one._name
            os.utime(sign, (0, 0))
            waited = threading.Event()
            for _ in range(200):
                if sign.stat().st_mtime > 0:
                    break
                waited.wait(0.02)
            assert sign.stat().st_mtime > 0


class TestRounds:
    def test_what_failed_is_known_to_all_and_tried_again_when_all_have_ended(self, tmp_path: Path) -> None:
        failed = Outcome("error", reason="by request")
        with shard(tmp_path) as one, shard(tmp_path, 2) as other:
            one.fail(STEP, failed)
            assert other.failed(STEP) == failed
            with shard(tmp_path, 1) as late:
                assert not late.first
                assert late.failed(STEP) == failed
        with shard(tmp_path) as again:
            assert again.first
            assert again.failed(STEP) is None
            assert again.take(STEP)

    def test_the_last_one_to_leave_knows_it(self, tmp_path: Path) -> None:
        with shard(tmp_path) as one, shard(tmp_path, 2) as other:
            assert one.first
            assert not other.first
            assert not one.leave()
            assert other.leave()
        assert list((tmp_path / "shards").iterdir()) == [tmp_path / "shards" / "claims"]


class TestRefused:
    @pytest.mark.parametrize("text", ["0/3", "4/3", "3", "a/b", "1/3/4", "-1/3", "1 / 3"])
    def test_what_is_no_share(self, text: str) -> None:
        with pytest.raises(BadInput, match="expected I/N"):
            Shard.parse(text)

    def test_shares_are_read(self) -> None:
        assert Shard.parse("2/3") == (2, 3)

    def test_another_plan(self, tmp_path: Path) -> None:
        with shard(tmp_path), pytest.raises(BadInput, match="Shards of another plan"), shard(tmp_path, 2, plan="other"):
            pass

    def test_a_run_without_shards_beside_them(self, tmp_path: Path) -> None:
        with shard(tmp_path), pytest.raises(BadInput, match="Shards are writing"), alone_in(tmp_path):
            pass
        with alone_in(tmp_path):
            pass

    def test_shards_beside_a_run_without(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr("redteam.evaluation.runner.shards._BEAT", 0.1)
        with (
            alone_in(tmp_path),
            pytest.raises(BadInput, match="A run without --shard is writing"),
            shard(tmp_path),
        ):
            pass
        with shard(tmp_path) as one:
            assert one.first

    def test_two_may_begin_at_the_same_moment(self, tmp_path: Path) -> None:
        both = threading.Barrier(2)

        def run(index: int) -> None:
            for _ in range(50):
                both.wait(60)
                with shard(tmp_path, index):
                    pass

        with ThreadPoolExecutor(2) as threads:
            assert list(threads.map(run, (1, 2))) == [None, None]


def step(label: str, inputs: dict[str, Step] | None = None, *, makes: bool = False, **settings: Any) -> Step:
    names = {role: one.name for role, one in (inputs or {}).items()}
    return Step.of("attack", label, settings={"label": label, **settings}, inputs=names, makes=makes)


class TestScheduler:
    @pytest.fixture
    def ran(self, monkeypatch: pytest.MonkeyPatch) -> list[str]:
        ran: list[str] = []

        def run_step(one: Step, store: Store) -> Record:
            ran.append(one.label)
            if one.settings.get("fails"):
                raise ValueError("by request")
            for need in one.inputs.values():
                assert store.artefact(need)
            if one.makes:
                store.put_artefact(one.name, Checkpoint.of({"w": torch.ones(1)}, {}))
            return Recovered(one.label, None, {}, None, Cost(0.0))

        monkeypatch.setattr(computations, "run_step", run_step)
        monkeypatch.setattr(schedulers, "_LOOK", 0.01)
        return ran

    def made(self, root: Path, one: Shard, settled: Callable[[Step, Outcome], None] = lambda *_: None) -> Scheduler:
        return Scheduler(Store(root), pool=None, time_limit=1, settled=settled, shard=one)

    def test_two_compute_everything_once(self, ran: list[str], tmp_path: Path) -> None:
        steps = [step(f"step {index}") for index in range(40)]

        def run(index: int) -> Scheduler:
            with shard(tmp_path, index) as one:
                made = self.made(tmp_path, one)
                made.add(steps)
                made.run()
                return made

        with ThreadPoolExecutor(2) as threads:
            both = list(threads.map(run, (1, 2)))
        assert sorted(ran) == sorted(one.label for one in steps)
        for made in both:
            assert [made.outcomes[one.name].status for one in steps] == ["ok"] * 40

    def test_its_own_share_comes_first(self, ran: list[str], tmp_path: Path) -> None:
        steps = [step(f"step {index}") for index in range(20)]
        with shard(tmp_path, 2) as one:
            made = self.made(tmp_path, one)
            made.add(steps)
            made.run()
            own = [s.label for s in steps if one.mine(s.name)]
        assert 0 < len(own) < 20
        assert ran[: len(own)] == own
        assert len(ran) == 20

    def test_what_another_has_is_waited_for(self, ran: list[str], tmp_path: Path) -> None:
        first = step("first", makes=True)
        second = step("second", {"lock": first})
        with shard(tmp_path) as one, shard(tmp_path, 2) as other:
            assert other.take(first.name)
            looked: list[str] = []

            def finish(_: float) -> None:
                looked.append("")
                if len(looked) == 3:
                    store = Store(tmp_path)
                    store.put_artefact(first.name, Checkpoint.of({"w": torch.ones(1)}, {}))
                    store.put(first, Recovered("by the other", None, {}, None, Cost(0.0)))
                    other.give_back(first.name)

            with pytest.MonkeyPatch.context() as patched:
                patched.setattr(schedulers.time, "sleep", finish)
                made = self.made(tmp_path, one)
                made.add([first, second])
                made.run()
        assert ran == ["second"]
        assert made.outcomes[first.name].record.digest == "by the other"

    def test_what_another_has_and_dies_is_computed(self, ran: list[str], tmp_path: Path) -> None:
        first = step("first")
        other = shard(tmp_path, 2).__enter__()
        with shard(tmp_path) as one:
            assert other.take(first.name)
            with pytest.MonkeyPatch.context() as patched:
                patched.setattr(schedulers.time, "sleep", lambda _: dies(other))
                made = self.made(tmp_path, one)
                made.add([first])
                made.run()
        assert ran == ["first"]

    def test_what_failed_elsewhere_is_not_tried_again(self, ran: list[str], tmp_path: Path) -> None:
        first = step("first", fails=True)
        second = step("second", {"lock": first})
        with shard(tmp_path) as one, shard(tmp_path, 2) as other:
            for who in (one, other):
                made = self.made(tmp_path, who)
                made.add([first, second])
                made.run()
                assert made.outcomes[first.name].status == "error"
                assert made.outcomes[second.name].status == "skipped"
                assert not made.overtaken
            Store(tmp_path).put(first, Recovered("after all", None, {}, None, Cost(0.0)))
            assert made.overtaken
        assert ran == ["first"]

    def test_what_another_has_dropped_is_made_anew(self, ran: list[str], tmp_path: Path) -> None:
        first = step("first", makes=True)
        second, third = step("second", {"lock": first}), step("third", {"lock": first})
        with shard(tmp_path) as one:
            settled: list[str] = []

            def drop(done: Step, outcome: Outcome) -> None:
                settled.append(done.label)
                if done is second:
                    made.store.drop_artefact(first.name)

            made = self.made(tmp_path, one, drop)
            made.add([first, second, third])
            made.run()
        order = [label for label in ("second", "third") if label in ran]
        assert order == ["second", "third"]
        assert {made.outcomes[s.name].status for s in (first, second, third)} == {"ok"}

    def test_what_is_dropped_under_a_step_costs_it_one_try(self, ran: list[str], tmp_path: Path) -> None:
        first = step("first", makes=True)
        second = step("second", {"lock": first})
        with shard(tmp_path) as one:
            made = self.made(tmp_path, one)
            really = computations.run_step

            def run_step(step: Step, store: Store) -> Record:
                if step is second and "second" not in ran:
                    store.drop_artefact(first.name)
                return really(step, store)

            with pytest.MonkeyPatch.context() as patched:
                patched.setattr(computations, "run_step", run_step)
                made.add([first, second])
                made.run()
        assert ran == ["first", "second", "first", "second"]
        assert made.outcomes[second.name].status == "ok"


def test_shards_that_run_together_come_to_the_results_of_one_run(
    once: Callable[..., Any], toys: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = once("undisturbed", toys.small())
    monkeypatch.setattr(schedulers, "_LOOK", 0.05)
    counted = [toys.Counting(), toys.Counting()]

    def run(index: int) -> Any:
        return toys.run(toys.small(), tmp_path, shard=f"{index + 1}/2", observer=counted[index])

    with ThreadPoolExecutor(2) as threads:
        both = list(threads.map(run, range(2)))
    for done in both:
        assert toys.numbers(done.results) == toys.numbers(whole.results)
    assert toys.numbers(toys.read(tmp_path).results) == toys.numbers(whole.results)
    assert list((tmp_path / "work").iterdir()) == []
    assert sorted(p.name for p in (tmp_path / "cells").iterdir()) == sorted(
        p.name for p in (whole.folder / "cells").iterdir()
    )


@pytest.mark.slow
def test_three_processes_killed_and_repeated_come_to_the_results_of_one_run(
    once: Callable[..., Any], toys: Any, tmp_path: Path, environment: dict[str, str]
) -> None:
    whole = once("undisturbed", toys.small())
    draw, out = random.Random(4), tmp_path / "out"
    plan = toys.write({**toys.small(), "name": "custom"}, tmp_path / "plan.toml")
    command = [toys.redteam, "run", plan, "--out", out, "--workers", "1", "--shard"]

    def started() -> list[subprocess.Popen[bytes]]:
        quiet = {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL}
        return [subprocess.Popen([*command, f"{index}/3"], env=environment, **quiet) for index in (1, 2, 3)]

    def kept() -> dict[str, bytes]:
        return {path.name: path.read_bytes() for path in out.glob("cells/*.json")}

    kills = 0
    for _ in range(2):
        before, runs = kept(), started()
        while len(kept()) < len(before) + 5 and any(run.poll() is None for run in runs):
            time.sleep(0.05)
        for run in draw.sample(runs, 3):
            time.sleep(draw.uniform(0, 0.3))
            kills += run.poll() is None
            run.kill()
            run.wait()
        assert before.items() <= kept().items()
    assert kills >= 3
    before, runs = kept(), started()
    assert [run.wait(900) for run in runs] == [0, 0, 0]
    assert before.items() <= kept().items()
    assert toys.numbers(toys.read(out).results) == toys.numbers(whole.results)
    assert kept().keys() == {path.name for path in (whole.folder / "cells").iterdir()}
    assert list((out / "work").iterdir()) == []
