"""A run on a GPU, which is pretended here: the CPU's figures, under names of its own, and it says where it was."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from redteam.errors import BadInput, BadPlan
from redteam.evaluation import bench
from redteam.evaluation.computations import run_step
from redteam.evaluation.layout import Layout
from redteam.evaluation.load_scenarios import load_scenarios
from redteam.evaluation.plan import Plan
from redteam.evaluation.preview import laid_out
from redteam.evaluation.recompute import Again
from redteam.evaluation.resolve import Resolved
from redteam.evaluation.results import Results
from redteam.evaluation.run import run
from redteam.evaluation.runner.scheduler import behind
from redteam.evaluation.runner.store import Store
from redteam.evaluation.steps import Locked, Merged, Recovered, Scored, Tried, Tuned
from redteam.search.run import Asked, plan_text, search
from tests.pretended import NAME, pretended_gpu


@pytest.fixture
def gpu() -> Iterator[Any]:
    with pretended_gpu() as mode:
        yield mode
    bench._on_device.cache_clear()


def small(toys: Any, **rest: Any) -> dict[str, Any]:
    return toys.plan(("permutation",), ("hungarian",), mergers=("task-arithmetic:coefficient=0.4",), **rest)  # type: ignore[no-any-return]


def thefts(results: Results) -> dict[Any, Any]:
    return {(one.defense, one.attack, one.role): one.scores.get("theft") for one in results.cells}


@pytest.fixture
def both(toys: Any, once: Any, together: Path, gpu: Any) -> tuple[Results, Results, Path]:
    """The same on the CPU and on the GPU, in one folder."""
    folder = together / "devices"
    here = once("devices", small(toys)).results
    there = run(small(toys, device="cuda"), out=folder, workers=0)
    assert gpu.ran > 10_000, "it was computed there"
    return here, there, folder


@pytest.mark.slow
def test_a_run_on_a_gpu_comes_to_the_same(both: tuple[Results, Results, Path], toys: Any, gpu: Any) -> None:
    here, there, folder = both
    assert {cell.status for cell in there.cells} <= {"ok", "skipped"}
    assert thefts(there) == pytest.approx(thefts(here), abs=0.01)
    assert thefts(there)["permutation", "hungarian", "recovery"] >= 0.9
    assert [one.verdict for one in there.verdicts] == [one.verdict for one in here.verdicts]
    # It says where, and a record of the one device is none of the other.
    assert here.environment["device"] == "cpu"
    assert there.environment["device"] == f"cuda ({NAME})"
    kept = {file.stem: json.loads(file.read_text()).get("gpu", "") for file in (folder / "cells").glob("*.json")}
    assert sorted(set(kept.values())) == ["", NAME]
    assert list(kept.values()).count(NAME) == list(kept.values()).count("")
    # The second time everything is there, and it still says where it was computed.
    before = gpu.ran
    again = run(small(toys, device="cuda"), out=folder, workers=0)
    assert gpu.ran == before
    assert again.environment["device"] == there.environment["device"]
    with Again.of(there, folder) as laid:
        assert laid.held
        name = next(iter(laid.held))
        assert laid._other_device(name) == ""
        (laid.store.root / "cells" / f"{name}.json").write_text(
            (laid.store.root / "cells" / f"{name}.json").read_text().replace(NAME, "another GPU")
        )
        assert laid._other_device(name) == f"it was computed on another GPU, and here is {NAME}"


def test_steps_of_every_kind(toys: Any, tmp_path: Path, gpu: Any) -> None:
    found: dict[str, list[Any]] = {}
    for device in ("cpu", "cuda"):
        resolved = Resolved.of(Plan.of(small(toys, device=device)), Path())
        store = Store(tmp_path / device)
        design, _ = laid_out(resolved, load_scenarios(resolved, store, pool=None, tell=lambda *_: None))
        (pairing,) = {p for asked in design.asked.values() for p in asked.pairings if p.attack == "hungarian"}
        found[device] = []
        for step in behind(design.steps, [pairing.steps.merge]):
            record = run_step(step, store)
            store.put(step, record)
            found[device].append(record)
    assert gpu.ran > 1000, "it was computed there"
    kinds = [type(record) for record in found["cuda"]]
    assert {Scored, Tried, Tuned, Locked, Recovered, Merged} == set(kinds)
    for here, there in zip(found["cpu"], found["cuda"], strict=True):
        if isinstance(here, Locked | Recovered):
            assert here.digest == there.digest, "locks and fits are the same to the last bit"
            assert here.tied_cost == there.tied_cost
        if isinstance(here, Merged):
            assert {task: packed.mean() for task, packed in there.tasks.items()} == pytest.approx(
                {task: packed.mean() for task, packed in here.tasks.items()}, abs=0.01
            )


def test_the_device_names_steps(toys: Any) -> None:
    found = {}
    for device in ("cpu", "cuda"):
        resolved = Resolved.of(Plan.of(small(toys, device=device)), Path())
        design, _ = laid_out(resolved, dict.fromkeys(resolved.places, "digest"), Layout)
        found[device] = {step.label: step.name for step in design.steps.values()}
        assert all(step.settings.get("device", "cpu") == device for step in design.steps.values())
    assert found["cpu"].keys() == found["cuda"].keys()
    assert set(found["cpu"].values()).isdisjoint(found["cuda"].values())


def test_no_gpu_is_said_before_anything_is_done(toys: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("torch.cuda.is_available", lambda: False)
    with pytest.raises(BadInput, match="There is no CUDA device"):
        run(small(toys, device="cuda"), out=tmp_path / "run", workers=0)
    with pytest.raises(BadInput, match="There is no CUDA device"):
        search(Asked(defense="mergelock", device="cuda"), tmp_path / "search", observer=None)  # type: ignore[arg-type]
    assert not list(tmp_path.iterdir())


def test_a_device_that_is_none() -> None:
    with pytest.raises(BadPlan, match="device must be 'cpu' or 'cuda', not 'mps'"):
        Plan.of({"device": "mps"})


def test_the_plan_that_repeats_a_winner_says_where() -> None:
    assert 'device = "cuda"' in plan_text(Asked(defense="mergelock", device="cuda").plan(("gauge-fit",)))[0]
    assert "device" not in plan_text(Asked(defense="mergelock").plan(("gauge-fit",)))[0]
