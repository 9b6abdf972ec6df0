"""Imitation sees answers and nothing else, asks for no more than it may, and learns from them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import pytest
import torch

from redteam.checkpoint import Checkpoint
from redteam.errors import ThreatModelViolation
from redteam.key import Key
from redteam.plugins.contracts import Needs
from redteam.plugins.registry import ATTACKS
from redteam.tasks import Scenario, halves
from redteam.threat import threat_model
from redteam.views import AttackerView
from tests.evaluation.toy import toy


@pytest.fixture(scope="module")
def scenario() -> Scenario:
    return toy()


def seen(scenario: Scenario, threat: str = "outputs-only") -> tuple[AttackerView, list[int]]:
    """A view whose protected model answers, and how many inputs it was asked for at a time."""
    network, asked = scenario.experts["victim"].module(), []

    def answer(inputs: Mapping[str, torch.Tensor]) -> torch.Tensor:
        asked.append(len(inputs["pixel_values"]))
        with torch.no_grad():
            return network(**inputs).logits

    view = AttackerView(
        scenario.dressed(scenario.base, "victim"),
        threat_model(threat),
        Key.derive(seed=0, index=0, name="test"),
        needs=Needs.ANCHOR | Needs.COMPANIONS | Needs.OUTPUTS,
        _anchor=scenario.base,
        _companions={name: scenario.experts[name] for name in scenario.companions},
        _own={name: halves(scenario.tasks[name])[0] for name in scenario.companions},
        _oracle=answer,
    )
    return view, asked


def attack(**settings: Any) -> Any:
    text = ",".join(f"{name}={value}" for name, value in settings.items())
    return ATTACKS.load(f"imitation:{text}" if text else "imitation")


def far(one: Checkpoint, other: Checkpoint, scenario: Scenario) -> float:
    """How far the answers of two models lie apart on inputs of the attacker's own."""
    inputs = scenario.tasks["left"].inputs_of("validation")
    with torch.inference_mode():
        return float((one.module()(**inputs).logits - other.module()(**inputs).logits).square().mean())


def test_it_learns_what_the_victim_answers(scenario: Scenario) -> None:
    view, _ = seen(scenario)
    victim, before = scenario.experts["victim"], view.protected
    after = attack(steps=60)(view)
    assert far(after, victim, scenario) < 0.6 * far(before, victim, scenario)


@pytest.mark.parametrize("limit", [1, 7, 64])
def test_it_asks_for_what_it_may(scenario: Scenario, limit: int) -> None:
    view, asked = seen(scenario, f"outputs-only:queries={limit}")
    attack(steps=2)(view)
    assert sum(asked) == view.meter.queries == limit
    assert view.queries == 0


def test_its_own_setting_asks_for_less(scenario: Scenario) -> None:
    for threat, queries, wanted in (("outputs-only:queries=64", 7, 7), ("outputs-only:queries=7", 64, 7)):
        view, asked = seen(scenario, threat)
        attack(steps=1, queries=queries)(view)
        assert sum(asked) == wanted


def test_more_than_there_is_is_all_there_is(scenario: Scenario) -> None:
    view, asked = seen(scenario)
    attack(steps=1)(view)
    there = sum(len(scenario.tasks[name].labels["train"]) for name in scenario.companions)
    assert sum(asked) == min(4096, there) > 64


def test_whoever_asks_for_more_is_told(scenario: Scenario) -> None:
    view, _ = seen(scenario, "outputs-only:queries=10")
    inputs = scenario.tasks["left"].inputs_of("validation")
    with pytest.raises(ThreatModelViolation, match="100 answers and 10 are left of the 10"):
        view.answers(inputs)


def test_only_attacks_on_answers_run_where_no_weights_are(scenario: Scenario) -> None:
    threat = threat_model("outputs-only")
    assert {name for name in ATTACKS.names if threat.allows(ATTACKS.load(name).spec.needs)} == {"imitation"}
    assert threat_model("weights-only").allows(ATTACKS.load("imitation").spec.needs)
