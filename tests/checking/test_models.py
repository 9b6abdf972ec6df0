"""What is said of weights: twins, and what moved an expert further than training does."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from redteam.checking.models import descent, weights
from redteam.checkpoint import Checkpoint
from redteam.key import Key
from redteam.plugins.registry import DEFENSES
from redteam.plugins.remarks import Remark
from redteam.tasks import Scenario
from redteam.views import DefenderView
from tests.evaluation.toy import toy


@pytest.fixture(scope="module")
def scenario() -> Scenario:
    return toy(drift=0.1)


def with_expert(scenario: Scenario, name: str, expert: Checkpoint) -> Scenario:
    return replace(scenario, experts={**scenario.experts, name: expert})


def said(remarks: list[Remark], name: str) -> Remark:
    (found,) = [remark for remark in remarks if repr(name) in remark.told]
    return found


def test_short_digests_of_all_models(scenario: Scenario) -> None:
    (remark,) = weights(scenario)
    assert remark.state == "ok"
    for name, model in {"base": scenario.base, **scenario.experts}.items():
        assert f"{name} {model.digest()[:12]}" in remark.told


def test_an_expert_that_is_the_base(scenario: Scenario) -> None:
    base = {name: scenario.base[name] for name in scenario.base}
    _, wrong = weights(with_expert(scenario, "left", scenario.experts["left"].replace(base)))
    assert wrong.state == "WRONG"
    assert "the expert of 'left' is the base" in wrong.told


@pytest.mark.parametrize(
    ("name", "twin", "whose"),
    [("left", "victim", "the victim"), ("victim", "right", "the victim"), ("left", "right", "the expert of 'left'")],
)
def test_experts_that_are_one_under_other_heads(scenario: Scenario, name: str, twin: str, whose: str) -> None:
    body = {tensor: scenario.experts[twin][tensor] for tensor in scenario.base}
    _, wrong = weights(with_expert(scenario, name, scenario.experts[name].replace(body)))
    companion = {"left": "left" if twin == "victim" else "right", "victim": "right"}[name]
    assert (wrong.state, wrong.told) == (
        "WRONG",
        f"the expert of {companion!r} has the same weights as {whose}; expected another model",
    )


def test_a_fine_tune_descends(scenario: Scenario) -> None:
    assert {remark.state for remark in descent(scenario)} == {"ok"}


def test_nan_is_no_small_distance(scenario: Scenario) -> None:
    name = next(n for n in scenario.base if len(scenario.base.shape(n)) == 2)
    broken = scenario.base[name].clone()
    broken[0, 0] = torch.nan
    remarks = list(descent(with_expert(scenario, "left", scenario.experts["left"].replace({name: broken}))))
    (wrong,) = [remark for remark in remarks if remark.state != "ok"]
    assert (wrong.state, wrong.about) == ("WRONG", "descent")
    assert "The expert left holds NaN or infinity" in wrong.told


@pytest.mark.parametrize("defense", ["permutation", "rotation", "mergelock"])
def test_a_locked_expert_is_told_from_another_training(scenario: Scenario, defense: str) -> None:
    victim = scenario.experts["victim"]
    view = DefenderView(victim, scenario.base, Key.derive(seed=0, index=0, name="defender"))
    locked = DEFENSES.load(defense)(view)
    remarks = list(descent(with_expert(scenario, "victim", locked)))
    wrong = said(remarks, "victim")
    assert wrong.state == "WRONG"
    assert "it is locked already, so name it as it was before. A lock of the" in wrong.told
    assert [remark.state for remark in remarks if remark != wrong] == ["ok", "ok"]


def test_an_expert_of_another_training(scenario: Scenario) -> None:
    stranger = toy(seed=5).experts["victim"]
    wrong = said(list(descent(with_expert(scenario, "victim", stranger))), "victim")
    assert wrong.state == "WRONG"
    assert "no change of basis explains it; expected one that was fine-tuned from this base" in wrong.told


def test_far_but_no_stranger_is_a_note(scenario: Scenario) -> None:
    victim, generator = scenario.experts["victim"], torch.Generator().manual_seed(0)
    noisy = {
        name: tensor + 0.4 * tensor.norm() * torch.randn(tensor.shape, generator=generator) / tensor.numel() ** 0.5
        for name, tensor in victim.items()
        if tensor.ndim == 2
    }
    found = said(list(descent(with_expert(scenario, "victim", victim.replace(noisy)))), "victim")
    assert found.state == "note"
    assert "further than fine-tunes go" in found.told
