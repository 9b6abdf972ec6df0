"""The benchmark of locked adapters, on a network of two layers."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from redteam.checkpoint import Checkpoint
from redteam.key import Key
from redteam.plugins.registry import MERGERS
from redteam.tasks import Scenario
from redteam.testing import toy_scenario
from redteam.views import MergerView

pytestmark = pytest.mark.filterwarnings("ignore")  # PEFT warns of much that is meant here
COMPANIONS = ("left", "right")


@pytest.fixture(scope="module")
def benchmark() -> Iterator[Any]:
    folder = str(Path(__file__).parents[1] / "benchmarks")
    sys.path.insert(0, folder)
    import adapters

    yield adapters
    sys.path.remove(folder)
    sys.modules.pop("adapters")


def joint(scenario: Scenario) -> Scenario:
    """With a base that has a head of its own for twelve classes, as that of `digits` has for all."""
    head = {"classifier.weight": torch.ones(12, 32), "classifier.bias": torch.ones(12)}
    labels = {str(label): label for label in range(12)}
    config = {"label2id": labels, "id2label": {name: name for name in labels}}
    return replace(scenario, base=scenario.base.replace(head).configured(config))


@pytest.fixture(scope="module")
def bench(benchmark: Any, tmp_path_factory: pytest.TempPathFactory) -> Any:
    scenario, out = joint(toy_scenario("vit")), tmp_path_factory.mktemp("adapters")
    recipe = benchmark.Recipe(rank=2, steps=6, rate=0.02)
    own = {task: benchmark.trained(scenario, task, 0, out, recipe) for task in COMPANIONS}
    cases = {benchmark.ALIKE: 0, benchmark.APART: 1}
    victims = {case: benchmark.trained(scenario, "victim", begun, out, recipe) for case, begun in cases.items()}
    bench = benchmark.Bench(scenario, own, victims)
    bench.out = out
    return bench


def distance(one: Checkpoint, other: Checkpoint, names: Any) -> float:
    return float(max((one[name] - other[name]).abs().max() for name in names))


def test_adapters_of_one_seed_begin_alike_and_all_of_them_learn(bench: Any, benchmark: Any) -> None:
    begun = Checkpoint.open(bench.out / "begun-0", base=bench.scenario.base)
    apart = {**bench.companions, "alike": bench.victims[benchmark.ALIKE], "apart": bench.victims[benchmark.APART]}
    for name in bench.moving:
        first = begun.factors(name).down
        moved = {task: float((one.factors(name).down - first).norm() / first.norm()) for task, one in apart.items()}
        assert max(moved[task] for task in (*COMPANIONS, "alike")) < 0.9 < moved["apart"]
        assert all(one.factors(name).up.any() for one in apart.values())
    assert len(bench.moving) == 12, "four maps of attention and two of the MLP, in two layers"


@pytest.mark.parametrize("merger", ["peft:combination=ties,density=0.5", "task-arithmetic"])
def test_a_coefficient_is_the_mergers_own(merger: str, bench: Any, benchmark: Any) -> None:
    plugin, scenario = MERGERS.load(merger), bench.scenario
    victim = bench.victims[benchmark.ALIKE]
    stream = Key.derive(seed=scenario.seed, index=0, name=f"merger {plugin.spec.name}")
    view = MergerView({"victim": victim, **bench.companions}, scenario.base, stream)
    wanted = plugin.function(view, **{**plugin.settings, "coefficient": 0.6})
    assert distance(bench.merge(merger, victim, 0.6), wanted, bench.moving) < 1e-6
    others = [name for name in wanted if name not in bench.moving]
    assert distance(scenario.base, wanted, others) == 0, "nothing but what adapters change is merged"


def test_scores_are_those_of_the_network(bench: Any, benchmark: Any) -> None:
    merged = bench.merge("task-arithmetic", bench.victims[benchmark.ALIKE], 1.0)
    scenario = bench.scenario
    for task in bench.tasks:
        module = scenario.dressed(scenario.base.replace(merged), task).module()
        assert (bench.scores(merged, task) == scenario.tasks[task].scores(module)).all()


@pytest.mark.slow
def test_records_tell_what_the_lock_stops(bench: Any, benchmark: Any) -> None:
    found = benchmark.measured(bench.scenario, COMPANIONS, bench.out, benchmark.Recipe(), 0.5)
    assert benchmark.measured(bench.scenario, COMPANIONS, bench.out, benchmark.Recipe(), 0.5) == found, "not once more"
    for merger in ("peft:combination=cat,density=0.5", "peft:combination=svd,density=0.5", "task-arithmetic"):
        rows = found["merges"][merger][benchmark.ALIKE]
        assert all(one == rows[benchmark.BEFORE] for one in rows.values()), "products stay"
    rows = found["merges"]["peft:combination=linear,density=0.5"][benchmark.ALIKE]
    assert rows["general-linear"] != rows[benchmark.BEFORE]
    lines = list(benchmark.tables({0: found}, 0.5))
    assert sum(line.startswith("| general-linear |") for line in lines) == 2
    assert sum(line.startswith("| `multiply-out`, like") for line in lines) == 3
    assert {line.count("|") for line in lines} == {10}


def test_the_lock_costs_no_number(bench: Any, benchmark: Any) -> None:
    told = benchmark.price(bench.victims[benchmark.ALIKE])
    assert told.startswith("12 modules locked in ")
    assert told.endswith("of the shapes that they had")
