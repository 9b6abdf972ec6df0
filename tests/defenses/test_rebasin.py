"""rebasin: what the owner's data still see, what no gauge brings back, and what is exact without noise."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch

from redteam.anatomy import ORDER
from redteam.checkpoint import Checkpoint, own_tensors, shared_tensors
from redteam.imitation import imitating
from redteam.key import Key
from redteam.plugins.registry import ATTACKS, DEFENSES
from redteam.symmetry.fit_all import fit_all
from redteam.tasks import Scenario
from redteam.testing import toy_scenario
from redteam.views import DefenderView, unlocked

KEY, OTHER = Key(bytes(range(32))), Key(bytes(range(1, 33)))
HEALED = {"rounds": 2, "noise": 0.1, "steps": 60, "rate": 3e-3}


@pytest.fixture(scope="module", params=["vit", "llama"])
def scenario(request: pytest.FixtureRequest) -> Scenario:
    return toy_scenario(request.param, drift=0.05)


def protected(scenario: Scenario, *, data: bool = True, **settings: Any) -> Checkpoint:
    task = scenario.tasks["victim"] if data else None
    view = DefenderView(scenario.experts["victim"], scenario.base, KEY, task)
    return DEFENSES.load("rebasin").function(view, **settings)  # type: ignore[no-any-return]


def away(scenario: Scenario, checkpoint: Checkpoint) -> float:
    """How far from the base, over all that a merge takes."""
    base = scenario.base
    return float(torch.stack([(checkpoint[n] - base[n]).norm() for n in shared_tensors(checkpoint, base)]).norm())


def fitted(scenario: Scenario, checkpoint: Checkpoint) -> float:
    return away(scenario, fit_all(checkpoint, scenario.base, ORDER))


def error(scenario: Scenario, checkpoint: Checkpoint) -> float:
    """How far its answers are from the victim's on the owner's data."""
    (batch,) = scenario.tasks["victim"].batches("train", 64, np.random.default_rng(0))
    with torch.no_grad():
        loss = imitating(scenario.experts["victim"].module(torch.float32), 2.0, 0.0)
        return float(loss(checkpoint.module(torch.float32), batch))


def test_healing_keeps_the_answers_and_no_gauge_brings_the_weights_back(scenario: Scenario) -> None:
    healed = protected(scenario, **HEALED)
    raw = protected(scenario, **{**HEALED, "steps": 1, "rate": 1e-6})
    assert error(scenario, healed) < 0.01 < 0.1 < error(scenario, raw)
    assert fitted(scenario, healed) > 2 * away(scenario, scenario.experts["victim"])


def test_without_noise_it_is_an_exact_lock_that_comes_back(scenario: Scenario) -> None:
    victim, weak = scenario.experts["victim"], DEFENSES.load("rebasin").spec.weakened
    assert weak == {"noise": 0.0}
    locked = protected(scenario, data=False, **weak)
    assert error(scenario, locked) < 1e-5
    assert away(scenario, locked) > 10 * away(scenario, victim)
    assert fitted(scenario, locked) <= away(scenario, victim)
    assert "rebasin" in ATTACKS.load("gauge-fit").spec.targets


def test_noise_has_the_size_it_says_and_each_round_adds_its_own(scenario: Scenario) -> None:
    victim, base = scenario.experts["victim"], scenario.base
    far = {
        rounds: protected(scenario, rounds=rounds, noise=0.3, steps=1, rate=1e-6)[name].double() - victim[name].double()
        for name in [unmoved(scenario)]
        for rounds in (1, 4)
    }
    spread = float(base[unmoved(scenario)].double().std(correction=0))
    assert float(far[1].square().mean().sqrt()) == pytest.approx(0.3 * spread, rel=0.1)
    assert float(far[4].square().mean().sqrt()) == pytest.approx(0.6 * spread, rel=0.1)


def unmoved(scenario: Scenario) -> str:
    """The largest tensor that no gauge of heads or neurons is on: an embedding."""
    found = [n for n in shared_tensors(scenario.base, scenario.base) if "embed" in n]
    return max(found, key=lambda name: scenario.base[name].numel())


def test_the_head_stays(scenario: Scenario) -> None:
    victim, found = scenario.experts["victim"], protected(scenario, rounds=1, steps=2)
    assert own_tensors(victim, scenario.base)
    assert all(torch.equal(found[n], victim[n]) for n in own_tensors(victim, scenario.base))


def test_the_keys_holder_is_left_with_what_healing_added(scenario: Scenario) -> None:
    """And nobody else: with steps that change nothing it is the victim, up to rounding."""
    victim, task = scenario.experts["victim"], scenario.tasks["victim"]

    def defend(view: DefenderView) -> Checkpoint:
        return DEFENSES.load("rebasin").function(view, rounds=2, steps=1, rate=1e-6)  # type: ignore[no-any-return]

    locked = defend(DefenderView(victim, scenario.base, KEY, task))
    back, wrong = (unlocked(locked, defend, scenario.base, key, task=task) for key in (KEY, OTHER))
    names = shared_tensors(victim, scenario.base)
    assert max(float((back[n] - victim[n]).abs().max()) for n in names) < 1e-4
    assert max(float((wrong[n] - victim[n]).abs().max()) for n in names) > 0.1
