"""Path fit: what lies between base and victim works better afterwards, and the victim computes what it did."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch

from redteam.checkpoint import Checkpoint, own_tensors, shared_tensors
from redteam.errors import Inapplicable
from redteam.imitation import imitating
from redteam.key import Key
from redteam.plugins.registry import ATTACKS
from redteam.symmetry import Orthogonal, Permutation, sample_gauges
from redteam.tasks import Scenario
from redteam.threat import OWNER
from redteam.views import AttackerView

KEY = Key.derive(seed=0, index=0, name="path fit")


def attacked(text: str, scenario: Scenario, protected: Checkpoint, **rest: Any) -> Checkpoint:
    attack = ATTACKS.load(text)
    given: dict[str, Any] = {
        "_anchor": scenario.base,
        "_companions": {task: scenario.experts[task] for task in scenario.companions},
        "_own": {task: scenario.tasks[task] for task in scenario.companions},
    }
    return attack(AttackerView(protected, OWNER, KEY.child("attack"), needs=attack.spec.needs, **{**given, **rest}))


def locked(scenario: Scenario, group: Any = None) -> Checkpoint:
    victim = sample_gauges(scenario.experts["victim"], ("vo",), group or Orthogonal(), KEY.child("lock").generator)
    return Checkpoint.of(dict(victim.items()), victim.config)


def halfway(scenario: Scenario, end: Checkpoint) -> float:
    """How far the network halfway from the base answers from the victim, on inputs of a companion."""
    base, task = scenario.base, scenario.companions[0]
    between = {name: (base[name].double() + end[name].double()) / 2 for name in shared_tensors(end, base)}
    (batch,) = scenario.tasks[task].batches("test", 256, np.random.default_rng(0))
    networks = (scenario.experts["victim"], end.replace(between))
    with torch.no_grad():
        teacher, student = (one.module(torch.float32) for one in networks)
        return float(imitating(teacher, 2.0, 1.0)(student, batch))


def change(scenario: Scenario, one: Checkpoint, other: Checkpoint) -> float:
    inputs = scenario.tasks["victim"].inputs_of("test")
    with torch.no_grad():
        here, there = (x.cast(torch.float64).module(torch.float64)(**_double(inputs)).logits for x in (one, other))
    return float((here - there).abs().max() / here.abs().max())


def _double(inputs: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    return {name: value.double() if value.is_floating_point() else value for name, value in inputs.items()}


def test_without_closed_forms_the_way_gets_better_and_the_function_stays(scenario: Scenario) -> None:
    protected = locked(scenario)
    found = attacked("path-fit:closed=false,steps=60,rate=0.03", scenario, protected)
    assert halfway(scenario, found) < 0.95 * halfway(scenario, protected)
    assert change(scenario, protected, found) < 1e-5
    assert {name: found.dtype(name) for name in found} == {name: protected.dtype(name) for name in protected}


def test_where_nothing_gets_better_it_is_what_it_began_with(scenario: Scenario) -> None:
    protected = locked(scenario)
    found = attacked("path-fit:closed=false,steps=1,rate=1.0", scenario, protected)
    assert halfway(scenario, found) <= 1.05 * halfway(scenario, protected)


def test_a_victim_as_near_as_companions_is_left_to_the_closed_forms(scenario: Scenario) -> None:
    protected = locked(scenario)
    closed, found = (attacked(text, scenario, protected) for text in ("gauge-fit", "path-fit:steps=5,rate=1.0"))
    assert all(torch.equal(found[name], closed[name]) for name in closed)


def test_heads_of_companions_are_no_matter_for_it(scenario: Scenario) -> None:
    protected = locked(scenario)
    companions = {task: scenario.experts[task] for task in scenario.companions}
    others = {
        task: Checkpoint.of(
            {**one, **{n: 9 * torch.cat([one[n], one[n]]) for n in own_tensors(one, scenario.base)}}, one.config
        )
        for task, one in companions.items()
    }
    alike, other = (
        attacked("path-fit:closed=false,steps=2,rate=0.03", scenario, protected, _companions=given)
        for given in (companions, others)
    )
    assert any(not torch.equal(alike[name], protected[name]) for name in alike)
    assert all(torch.equal(alike[name], other[name]) for name in alike)


def test_it_needs_inputs(scenario: Scenario) -> None:
    with pytest.raises(Inapplicable, match="give companions"):
        attacked("path-fit", scenario, locked(scenario), _companions={}, _own={})


def test_gauges_that_lie_apart_are_no_matter_for_it(scenario: Scenario) -> None:
    with pytest.raises(Inapplicable, match="lie apart"):
        attacked('path-fit:sites=["heads"]', scenario, locked(scenario, Permutation()))
