"""What a run may take of memory: it says what does not fit, skips it, and gives the same figures for the rest."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch

from redteam.checkpoint import Checkpoint
from redteam.errors import BadInput, NotEnoughMemory
from redteam.evaluation import bench, metrics
from redteam.evaluation.footprint import PROGRAM, WORKER, Budget, Footprint
from redteam.evaluation.load_scenarios import Loaded, loaded
from redteam.events import Observer
from redteam.memory import Room, limited_to, require, room, shown, size
from redteam.plugins.reference import Reference
from redteam.tasks.task import rows_at_once
from redteam.training import BYTES

TEXTS = str(Reference(f"{Path(__file__).parent / 'texts.py'}@texts"))
HUGE = 10**12


@pytest.fixture(scope="module")
def footprint() -> Footprint:
    found = loaded(f"{TEXTS}:seed=0")
    assert isinstance(found, Loaded), found
    return found.footprint


@pytest.fixture(scope="module")
def free(texts: Callable[..., Any]) -> Any:
    return texts("free")


@pytest.fixture(scope="module")
def texts(toys: Any, tmp_path_factory: pytest.TempPathFactory) -> Callable[..., Any]:
    """Runs a small plan on the texts."""

    def done(name: str, **options: Any) -> Any:
        folder = tmp_path_factory.getbasetemp() / name
        observer = options.pop("observer", None)
        plan = {**toys.plan(("mergelock",), ("gauge-fit",)), "scenarios": [TEXTS], "mergers": [MERGER], **options}
        return toys.run(plan, folder, observer=observer)

    return done


MERGER = "task-arithmetic:coefficient=0.5"


def tight(footprint: Footprint) -> str:
    """Room for scores and locks, and for nothing that trains."""
    own = footprint.least + footprint.row  # two at a time
    assert own < footprint.training
    return f"{(PROGRAM + WORKER + own) / 1e6}MB"


class TestSizes:
    @pytest.mark.parametrize(("text", "count"), [("4GB", 4e9), ("512 MiB", 2**29), ("1.5gb", 1.5e9), ("900KB", 9e5)])
    def test_are_read(self, text: str, count: float) -> None:
        assert size(text) == count

    @pytest.mark.parametrize("text", ["", "4", "GB", "-1GB", "0GB", "4GB5", "nan GB", "1e3GB", "4 G B"])
    def test_or_refused(self, text: str) -> None:
        with pytest.raises(ValueError, match="is no size"):
            size(text)

    def test_what_is_shown_is_enough(self) -> None:
        assert [shown(count) for count in (1, 2.01e6, 1e9, 4.01e9)] == ["1 MB", "3 MB", "1 GB", "4.1 GB"]
        for count in (1.0, 123_456.0, 9.99e8, 1e9, 7.77e9):
            assert size(shown(count)) >= count


class TestAsking:
    def test_without_a_limit_there_is_room_for_anything(self) -> None:
        require(HUGE, "It")
        assert room() is None

    def test_what_is_too_much_says_what_would_do(self) -> None:
        with limited_to(Room(HUGE, 10**9, 10**9)), pytest.raises(NotEnoughMemory) as refused:
            require(2 * HUGE, "All of it")
        assert refused.value.total == 2 * HUGE + 10**9
        assert "--memory 2001GB or more" in str(refused.value)
        assert room() is None

    def test_training_asks(self, footprint: Footprint) -> None:
        from tests.evaluation.texts import CONFIG, _read

        start = Checkpoint.of({}, CONFIG).fresh(0)
        with (
            limited_to(Room(BYTES * start.weights - 1, 1, 0)),
            pytest.raises(NotEnoughMemory, match=r"^Training a network of"),
        ):
            _read(start, {"input_ids": torch.zeros(4, 4, dtype=torch.int64)}, 1)

    def test_a_network_in_a_wider_dtype_asks(self) -> None:
        from tests.evaluation.texts import CONFIG

        held = Checkpoint.of({}, CONFIG).fresh(0).to(torch.bfloat16)
        with limited_to(Room(3 * held.weights, 1, 0)):
            held.module()
            with pytest.raises(NotEnoughMemory, match="in float32 takes about"):
                held.module(torch.float32)

    @pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="only Linux limits a process's own memory")
    @pytest.mark.parametrize("take", [lambda: np.ones(2**27), lambda: torch.ones(2**28)], ids=["numpy", "torch"])
    def test_whoever_does_not_ask_is_refused(self, take: Callable[[], Any]) -> None:
        with pytest.raises(NotEnoughMemory, match="give more with --memory"), limited_to(Room(2**28, 1, 0)):
            take()
        take()


class TestBudgets:
    def test_as_many_workers_as_fit(self, footprint: Footprint) -> None:
        one = WORKER + footprint.least
        counts = {
            extra: Budget.of(PROGRAM + extra, {"texts": footprint}, 4).workers for extra in (one, 2 * one, 9 * one)
        }
        assert counts == {one: 1, 2 * one: 2, 9 * one: 4}
        assert Budget.of(PROGRAM + one, {"texts": footprint}, 0).workers == 0

    def test_a_large_vocabulary_is_merged_where_no_network_is(self, footprint: Footprint) -> None:
        qwen = replace(footprint, nbytes=988_000_000, block=15_000_000, table=151_936 * 896, row=90_000_000)
        assert Budget.of(size("4GB"), {"qwen": qwen}, 2).workers == 1
        with pytest.raises(BadInput, match=r"takes at least 2\.8 GB"):
            Budget.of(size("2.7GB"), {"qwen": qwen}, 2)

    def test_what_they_take_together_is_the_limit(self, footprint: Footprint) -> None:
        for workers in (1, 2, 3):
            found = Budget.of(4 * 10**9, {"texts": footprint}, workers)
            assert PROGRAM + workers * (WORKER + found.room.own) == pytest.approx(4e9, abs=workers)

    def test_the_largest_scenario_counts(self, footprint: Footprint) -> None:
        from dataclasses import replace

        large = replace(footprint, nbytes=10**9)
        with pytest.raises(BadInput, match=r"^large takes at least 2\.2 GB of memory .* --memory gives 1\.5 GB"):
            Budget.of(1_500_000_000, {"small": footprint, "large": large}, 2)

    def test_batches_shrink_only_where_they_do_not_fit(self) -> None:
        head = SimpleNamespace(weight=torch.empty(50_000, 8, device="meta"))
        module: Any = SimpleNamespace(get_output_embeddings=lambda: head, config=None)
        inputs = {"input_ids": torch.zeros(500, 32, dtype=torch.int64)}
        usual = rows_at_once(module, inputs)
        found = []
        for forward in (HUGE, usual * 32 * 50_000 * 24, 10 * 32 * 50_000 * 24, 1):
            with limited_to(Room(HUGE, forward, 0)):
                found.append(rows_at_once(module, inputs))
        assert found == [usual, usual, 10, 1]


class TestRuns:
    def test_a_limit_that_is_large_enough_changes_nothing(self, free: Any, texts: Any, toys: Any) -> None:
        ample = texts("ample", memory="64GB")
        assert ample.results.plan.pop("memory") == "64GB"
        assert free.results.plan.pop("memory") is None
        assert toys.numbers(ample.results) == toys.numbers(free.results)

    def test_what_trains_is_skipped_and_computed_once_there_is_more(
        self, free: Any, texts: Any, toys: Any, footprint: Footprint
    ) -> None:
        limit = tight(footprint)
        found = texts("tight", memory=limit)
        skipped = [cell for cell in found.results.cells if cell.attack.startswith("imitation")]
        assert {cell.status for cell in skipped} == {"skipped"}
        assert all("Training a network" in cell.reason for cell in skipped)
        (told,) = [line for line in found.results.untested if "--memory" in line]
        assert "imitation" in told
        verdict = found.verdict("mergelock")
        assert verdict.verdict == free.verdict("mergelock").verdict
        assert verdict.imitation is None
        for attack in ("none", "gauge-fit"):
            assert found.theft("mergelock", attack) == pytest.approx(free.theft("mergelock", attack), abs=0.02)
        again = toys.Counting()
        more = texts("tight", observer=again)
        assert {cell.status for cell in more.results.cells} <= {"ok", "skipped"}
        assert [cell.status for cell in more.results.cells if cell.attack.startswith("imitation")] == ["ok"]
        assert again.labels, "what was skipped is computed"
        rest = [label for label in again.labels if "imitation" not in label]
        assert all(label.startswith("lock") for label in rest), "and what it is made from; nothing else"

    def test_too_little_for_anything_is_a_sentence(self, texts: Any) -> None:
        with pytest.raises(BadInput, match=r"takes at least 1\.2 GB of memory"):
            texts("none", memory="1GB")

    def test_of_large_models_nothing_is_held_and_figures_are_the_same(
        self, free: Any, texts: Any, toys: Any, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        held: list[str] = []
        monkeypatch.setattr(bench, "_HELD", 0)
        monkeypatch.setattr(metrics, "_WHOLE", 0)
        monkeypatch.setattr(bench, "in_memory", lambda one: held.append(str(one)) or one)
        found = texts("files")
        assert not held
        assert not list((found.folder / "work").iterdir()), "nothing is left behind"
        for cell, other in zip(found.results.cells, free.results.cells, strict=True):
            assert (cell.attack, cell.status) == (other.attack, other.status)
            for what, near in (("theft", 1e-3), ("residual", 1e-6), ("change", 1e-9)):
                here, there = (float(one.scores.get(what) or 0.0) for one in (cell, other))
                assert here == pytest.approx(there, abs=near), what
            fidelity = other.scores.get("fidelity") or {}
            assert (cell.scores.get("fidelity") or {}) == pytest.approx(fidelity, abs=1e-3)
        assert found.verdict("mergelock").verdict == free.verdict("mergelock").verdict

    def test_time_is_told_before_the_long_part_and_once(self, texts: Any) -> None:
        class Listening(Observer):
            def __init__(self) -> None:
                self.told: list[str] = []
                self.merged: list[int] = []

            def estimated(self, sentence: str) -> None:
                self.told.append(sentence)

            def settled(self, label: str, *_: Any) -> None:
                if label.startswith("merge"):
                    self.merged.append(len(self.told))

        listening = Listening()
        texts("told", observer=listening, memory="8GB")
        (told,) = listening.told
        assert re.search(r"^\d+ computations take about \d+ s on 1 process, and up to \d+ (s|min) with", told), told
        assert "Memory: 6.9 GB for each computation" in told
        assert set(listening.merged) == {1}
        again = Listening()
        texts("told", observer=again, memory="8GB")
        assert not again.told, "there is nothing left"


def test_a_bad_value_is_one_sentence(shell: Callable[..., Any]) -> None:
    told = shell("run", "--memory", "lots")
    assert told.code == 2
    assert told.err.startswith("Error: The command line cannot be used: memory must be a size such as '4GB' or '512MB'")
