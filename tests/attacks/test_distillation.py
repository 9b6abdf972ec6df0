"""Distillation: the student is in the base's coordinates, answers as the teacher, and looks at no label."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from redteam_attacks.distillation import _like

from redteam.checkpoint import Checkpoint, own_tensors, shared_tensors
from redteam.errors import Inapplicable
from redteam.key import Key
from redteam.plugins.registry import ATTACKS
from redteam.symmetry import GeneralLinear, sample_gauges
from redteam.tasks import Scenario
from redteam.testing import toy_scenario
from redteam.threat import OWNER
from redteam.views import AttackerView

KEY = Key.derive(seed=0, index=0, name="distillation")


def view(attack: Any, scenario: Scenario, protected: Checkpoint, **rest: Any) -> AttackerView:
    given: dict[str, Any] = {
        "_anchor": scenario.base,
        "_companions": {task: scenario.experts[task] for task in scenario.companions},
        "_own": {task: scenario.tasks[task] for task in scenario.companions},
        "_task": scenario.tasks["victim"],
        "_owner": KEY.child("owner"),
    }
    return AttackerView(protected, OWNER, KEY.child("attack"), needs=attack.spec.needs, **{**given, **rest})


def distance(found: Checkpoint, to: Checkpoint, names: tuple[str, ...]) -> float:
    return sum(float((found[name] - to[name]).square().sum()) for name in names) ** 0.5


@pytest.mark.parametrize("name", ["distillation", "distillation-inputs"])
class TestTheStudent:
    def test_a_lock_that_keeps_the_function_makes_hardly_a_difference_and_the_head_none(self, name: str):
        scenario, attack = toy_scenario(), ATTACKS.load(f"{name}:steps=5")
        victim = scenario.experts["victim"]
        locked = sample_gauges(victim, ("qk", "vo"), GeneralLinear(), KEY.generator)
        shared = shared_tensors(victim, scenario.base)
        plain, other = attack(view(attack, scenario, victim)), attack(view(attack, scenario, locked))
        moved = distance(plain, scenario.base, shared)
        assert moved > 0
        assert distance(plain, other, shared) < 0.05 * moved
        assert all(torch.equal(plain[n], victim[n]) for n in own_tensors(victim, scenario.base))

    def test_it_answers_more_like_the_teacher_than_the_base_does(self, name: str):
        scenario, attack = toy_scenario(), ATTACKS.load(f"{name}:steps=60,reach=1000000")
        victim = scenario.experts["victim"]
        shared = shared_tensors(victim, scenario.base)
        start = victim.replace({n: scenario.base[n] for n in shared})
        seen = view(attack, scenario, victim)
        student = attack(seen)
        task = scenario.tasks[scenario.companions[0] if name == "distillation" else "victim"]
        batch = next(task.batches("validation" if name == "distillation" else "train", 64, KEY.generator("look")))
        like = _like(victim.module(torch.float32), 4.0)
        with torch.no_grad():
            assert float(like(student.module(), batch)) < float(like(start.module(), batch))
        assert seen.meter.steps == 60

    def test_no_tensor_leaves_the_reach(self, name: str):
        scenario, attack = toy_scenario(), ATTACKS.load(f"{name}:steps=5,reach=0")
        victim = scenario.experts["victim"]
        found = attack(view(attack, scenario, victim))
        assert distance(found, scenario.base, shared_tensors(victim, scenario.base)) == 0


def test_the_loss_is_the_divergence_written_out():
    scenario = toy_scenario()
    victim = scenario.experts["victim"]
    student = victim.replace({n: scenario.base[n] for n in shared_tensors(victim, scenario.base)}).module()
    teacher = victim.module()
    batch = next(scenario.tasks["victim"].batches("train", 8, KEY.generator("batch")))
    with torch.no_grad():
        p, q = (torch.softmax(model(**batch[0]).logits.double() / 3, -1) for model in (teacher, student))
        wanted = 9 * float((p * (p.log() - q.log())).sum(-1).mean())
        assert wanted > 0
        assert float(_like(teacher, 3.0)(student, batch)) == pytest.approx(wanted, rel=1e-3)
        assert float(_like(teacher, 3.0)(teacher, batch)) == pytest.approx(0, abs=1e-6)


def test_without_a_task_of_its_own_the_attacker_is_told_so():
    scenario, attack = toy_scenario(), ATTACKS.load("distillation")
    with pytest.raises(Inapplicable, match="no task of its own"):
        attack(view(attack, scenario, scenario.experts["victim"], _companions={}, _own={}))
