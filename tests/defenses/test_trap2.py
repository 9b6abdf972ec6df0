"""Trap² against its step's loss written out, and what it leaves alone."""

import numpy as np
import pytest
import redteam_defenses.trap2 as home
import torch
from redteam_defenses.trap2 import trap2
from torch.func import functional_call

from redteam.checkpoint import own_tensors, shared_tensors
from redteam.errors import BadSetting
from redteam.key import Key
from redteam.testing import toy_scenario
from redteam.views import DefenderView

KEY, OTHER = Key(bytes(range(32))), Key(bytes(range(1, 33)))


@pytest.fixture(scope="module", params=["vit", "bert"])
def scenario(request):
    return toy_scenario(request.param)


def protected(scenario, key=KEY, **settings):
    view = DefenderView(scenario.experts["victim"], scenario.base, key, scenario.tasks["victim"])
    return trap2(view, **{"steps": 2, "batch": 32, **settings})


def same(one, two):
    return all(torch.equal(one[n], two[n]) for n in two)


def points_of(monkeypatch, scenario, **settings):
    """What the defense hands the trainer."""
    caught = {}
    monkeypatch.setattr(home, "trained", lambda view, budget, *, points: caught.update(points=points))
    protected(scenario, **settings)
    return caught["points"]


@pytest.mark.parametrize("weight", [0.0, 0.005, 0.7])
def test_a_step_goes_down_the_trapping_loss(scenario, monkeypatch, weight):
    """The slope of L(θ₀ + Δ) − λ L(θ₀ + sΔ)/s in Δ, by autograd through both networks at once; s as it is drawn."""
    victim, base, task = scenario.experts["victim"], scenario.base, scenario.tasks["victim"]
    rate = 1e-3
    after = protected(scenario, steps=1, rate=rate, batch=64, epsilon=1.0, warmup=0.0, clip=1e3, weight=weight)
    with monkeypatch.context() as patch:
        points = points_of(patch, scenario, weight=weight)
    view = DefenderView(victim, base, KEY, task).seeded(0)
    s = points(view.generator("points"))[1][0]
    module = victim.module(torch.float32)
    origin = victim.replace({n: base[n] for n in shared_tensors(victim, base)}).module(torch.float32)
    ends = {n: p.detach() for n, p in module.named_parameters()}
    start = {n: p.detach() for n, p in origin.named_parameters()}
    delta = {n: (ends[n] - start[n]).requires_grad_() for n in ends}
    (inputs, labels) = next(task.batches("train", 64, np.random.default_rng(0)))

    def loss(share):
        weights = {n: start[n] + share * delta[n] for n in ends}
        weights |= {n: ends[n] for n in ends if "classifier" in n}  # the head has no path
        return torch.nn.functional.cross_entropy(functional_call(module, weights, (), inputs).logits, labels)

    total = loss(1.0) - weight * loss(s) / s
    slopes = torch.autograd.grad(total, list(delta.values()), allow_unused=True)
    found = dict(after.module(torch.float32).named_parameters())
    tried = 0
    for name, slope in zip(delta, slopes, strict=True):
        if slope is None or "classifier" in name:
            continue
        step = (ends[name] - found[name].detach()) / rate  # AdamW's first: g / (|g| + ε)
        torch.testing.assert_close(step, slope / (slope.abs() + 1.0), rtol=2e-2, atol=2e-3)
        tried += 1
    assert tried > 20


def test_the_scales_are_uniform_in_their_range_without_the_gap(scenario, monkeypatch):
    points = points_of(monkeypatch, scenario, weight=0.3)
    draws = np.random.default_rng(0)
    drawn = [points(draws) for _ in range(4000)]
    assert all(first == (1.0, 1.0) for first, _ in drawn)
    shares = np.array([s for _, (s, _) in drawn])
    assert all(w == pytest.approx(-0.3 / s) for _, (s, w) in drawn)
    assert shares.min() >= 0.05
    assert shares.max() <= 2.0
    assert not ((shares > 0.95) & (shares < 1.05)).any()
    assert (shares < 0.95).mean() == pytest.approx(0.9 / 1.85, abs=0.03)
    below, above = shares[shares <= 0.95], shares[shares >= 1.05]
    assert below.mean() == pytest.approx(0.5, abs=0.03)
    assert above.mean() == pytest.approx(1.525, abs=0.03)


@pytest.mark.parametrize("scales", [(0.0, 2.0), (0.96, 1.04)])
def test_a_range_that_leaves_nothing_to_draw_is_refused(scenario, scales):
    with pytest.raises(BadSetting, match="No s is left"):
        protected(scenario, scales=scales)


def test_a_gap_beyond_the_range_spares_nothing(scenario, monkeypatch):
    points = points_of(monkeypatch, scenario, scales=(0.2, 0.8))
    shares = [points(np.random.default_rng(seed))[1][0] for seed in range(200)]
    assert 0.2 <= min(shares) < 0.25
    assert 0.75 < max(shares) <= 0.8


def test_it_fails_away_from_its_own_length_more_than_plain_training_does(scenario):
    """With a heavy λ, so that a few steps show it: alone the loss stays, at other lengths it rises."""
    victim, base, task = scenario.experts["victim"], scenario.base, scenario.tasks["victim"]
    batch = next(task.batches("train", 64, np.random.default_rng(0)))
    settings = {"steps": 20, "rate": 3e-3, "batch": 64, "epsilon": 1e-8}
    loss = {}
    for weight in (0.0, 0.2):
        after = protected(scenario, weight=weight, **settings)
        shared = shared_tensors(victim, base)
        for share in (0.5, 1.0):
            moved = after.replace({n: base[n] + share * (after[n] - base[n]) for n in shared})
            with torch.no_grad():
                loss[weight, share] = float(task.loss(moved.module(torch.float32), batch))
    assert loss[0.2, 0.5] > loss[0.0, 0.5]
    assert loss[0.2, 0.5] - loss[0.0, 0.5] > 3 * (loss[0.2, 1.0] - loss[0.0, 1.0])


def test_the_head_stays_and_everything_else_moves(scenario):
    victim, base = scenario.experts["victim"], scenario.base
    found = protected(scenario)
    assert all(torch.equal(found[n], victim[n]) for n in own_tensors(victim, base))
    assert sum(not torch.equal(found[n], victim[n]) for n in shared_tensors(victim, base)) > 20


def test_nothing_in_it_is_secret(scenario):
    assert same(protected(scenario), protected(scenario))
    assert same(protected(scenario), protected(scenario, key=OTHER))


def test_the_weakened_variant_runs(scenario):
    weak = protected(scenario, **trap2.__redteam__.weakened)
    assert not same(weak, protected(scenario))
