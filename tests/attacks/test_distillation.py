"""Distillation: what the student takes from the victim, what it leaves, and what its loss is."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch

from redteam.anatomy import anatomy_of
from redteam.checkpoint import Checkpoint, own_tensors, shared_tensors
from redteam.errors import Inapplicable
from redteam.imitation import imitating
from redteam.key import Key
from redteam.plugins.registry import ATTACKS
from redteam.symmetry import GeneralLinear, Orthogonal, Permutation, sample_gauges
from redteam.tasks import Scenario
from redteam.threat import OWNER
from redteam.views import AttackerView

KEY = Key.derive(seed=0, index=0, name="distillation")
NAMES = ("distill-own", "distillation")


def attacked(text: str, scenario: Scenario, protected: Checkpoint, **rest: Any) -> tuple[Checkpoint, AttackerView]:
    attack = ATTACKS.load(text)
    given: dict[str, Any] = {
        "_anchor": scenario.base,
        "_companions": {task: scenario.experts[task] for task in scenario.companions},
        "_own": {task: scenario.tasks[task] for task in scenario.companions},
        "_task": scenario.tasks["victim"],
        "_owner": KEY.child("owner"),
    }
    view = AttackerView(protected, OWNER, KEY.child("attack"), needs=attack.spec.needs, **{**given, **rest})
    return attack(view), view


def locked(scenario: Scenario, kinds: tuple[str, ...], group: Any) -> Checkpoint:
    victim = sample_gauges(scenario.experts["victim"], kinds, group, KEY.child("lock").generator)
    return Checkpoint.of(dict(victim.items()), victim.config)


def error(scenario: Scenario, student: Checkpoint, features: float = 0.0) -> float:
    """How far the student's answers are from the victim's on the victim's inputs."""
    (batch,) = scenario.tasks["victim"].batches("test", 256, np.random.default_rng(0))
    with torch.no_grad():
        return float(imitating(scenario.experts["victim"].module(), 2.0, features)(student.module(), batch))


def untrained(scenario: Scenario) -> Checkpoint:
    return scenario.dressed(scenario.base, "victim")


@pytest.mark.parametrize("name", NAMES)
class TestBoth:
    def test_answers_come_closer_to_the_victims_and_the_head_stays(self, name: str, scenario: Scenario) -> None:
        protected = locked(scenario, ("qk", "vo"), GeneralLinear())
        student, view = attacked(f"{name}:steps=60,rate=0.003,reach=1e6", scenario, protected)
        assert error(scenario, student) < 0.7 * error(scenario, untrained(scenario))
        assert all(torch.equal(student[n], protected[n]) for n in own_tensors(protected, scenario.base))
        assert (view.meter.labels, view.meter.steps) == (0, 60)

    def test_a_lock_that_keeps_the_function_makes_no_difference(self, name: str, scenario: Scenario) -> None:
        text, names = f"{name}:steps=8", shared_tensors(scenario.experts["victim"], scenario.base)
        free, _ = attacked(text, scenario, scenario.experts["victim"])
        under, _ = attacked(text, scenario, locked(scenario, ("qk", "vo"), Orthogonal()))
        moved = sum(float((free[n] - scenario.base[n]).square().sum()) for n in names)
        apart = sum(float((free[n] - under[n]).square().sum()) for n in names)
        assert apart < 1e-3 * moved

    def test_hidden_states_in_another_basis_are_left_alone(self, name: str, scenario: Scenario) -> None:
        (stream,) = anatomy_of(scenario.base).sites(("residual",))
        group = Orthogonal() if "orthogonal" in stream.legal else Permutation()
        protected = locked(scenario, ("residual",), group)
        with_features, _ = attacked(f"{name}:steps=3", scenario, protected)
        without, _ = attacked(f"{name}:steps=3,features=0", scenario, protected)
        assert with_features.digest() == without.digest()


def test_the_loss_vanishes_at_the_teacher_and_counts_from_there(scenario: Scenario) -> None:
    victim = scenario.experts["victim"]
    assert error(scenario, victim, 1.0) == pytest.approx(0, abs=1e-5)
    assert error(scenario, untrained(scenario), 1.0) > error(scenario, untrained(scenario), 0.0) > 0.01


def test_without_tasks_of_its_own_there_is_nothing_to_ask(scenario: Scenario) -> None:
    with pytest.raises(Inapplicable, match="give companions"):
        attacked("distill-own:steps=1", scenario, scenario.experts["victim"], _companions={})
