"""MergeGuard against its formulas written out: the shrinking training, and the mask on what it leaves."""

import math

import numpy as np
import pytest
import torch
from redteam_defenses.mergeguard import guarded, mergeguard

from redteam.checkpoint import own_tensors, shared_tensors
from redteam.key import Key
from redteam.testing import toy_scenario
from redteam.views import DefenderView

KEY, OTHER = Key(bytes(range(32))), Key(bytes(range(1, 33)))
SHORT = {"steps": 2, "batch": 32}
LINEAR = ("query.weight", "key.weight", "value.weight", "dense.weight")
LINEAR_BIASES = tuple(name.replace("weight", "bias") for name in LINEAR)


@pytest.fixture(scope="module", params=["vit", "bert"])
def scenario(request):
    return toy_scenario(request.param)


def protected(scenario, key=KEY, **settings):
    view = DefenderView(scenario.experts["victim"], scenario.base, key, scenario.tasks["victim"])
    return mergeguard(view, **{**SHORT, **settings})


def same(one, two):
    return all(torch.equal(one[n], two[n]) for n in two)


def literal(away, beta, keep):
    """θ̂ − θ₀ of a tensor, an entry at a time: |τ| from the largest, ties by place."""
    flat = away.flatten().tolist()
    order = sorted(range(len(flat)), key=lambda i: (-abs(flat[i]), i))
    for i in order[: len(flat) - round(keep * len(flat))]:
        flat[i] = (1 - beta) * flat[i]
    return torch.tensor(flat, dtype=torch.float64).view_as(away)


@pytest.mark.parametrize("beta", [0.0, 0.5, 1.0, 2.0])
@pytest.mark.parametrize("keep", [0.0, 0.3, 0.9, 1.0])
def test_the_mask_takes_the_largest_of_the_task_vector_back(beta, keep):
    draws = np.random.default_rng(0)
    start = torch.from_numpy(draws.integers(-4, 5, (7, 11))).double() * 0.25
    away = torch.from_numpy(draws.integers(-4, 5, (7, 11))).double() * 0.125  # with ties, exact in float64
    found = guarded(start + away, start, beta, keep)
    torch.testing.assert_close(found, start + literal(away, beta, keep), rtol=0, atol=1e-12)


def test_what_is_masked_equals_the_base_bit_by_bit_and_the_rest_the_expert(scenario):
    victim, base = scenario.experts["victim"], scenario.base
    found = protected(scenario, spread=False, keep_layers=0.0, keep_parameters=0.75)
    for name in shared_tensors(victim, base):
        if name.endswith(LINEAR) and "encoder" in name:
            back = found[name] == base[name]
            assert float(back.double().mean()) == pytest.approx(0.25, abs=1e-3), name
            assert torch.equal(found[name][~back], victim[name][~back])
            assert (victim[name] - base[name]).abs()[back].min() >= (victim[name] - base[name]).abs()[~back].max()


def test_heads_embeddings_and_norms_are_never_masked(scenario):
    victim, base = scenario.experts["victim"], scenario.base
    found = protected(scenario, spread=False, keep_layers=0.0, keep_parameters=0.0)
    moved = {n for n in victim if not torch.equal(found[n], victim[n])}
    assert moved
    assert not moved & set(own_tensors(victim, base))
    assert all("encoder" in n and "norm" not in n.lower() and n.endswith(LINEAR + LINEAR_BIASES) for n in moved)


@pytest.mark.parametrize("beta", [1.0, 2.0])
def test_the_critical_layers_are_left_alone(scenario, beta):
    """Each layer taken back by hand, in the network and on all the training data: those that cost most stay whole."""
    victim, base, task = scenario.experts["victim"], scenario.base, scenario.tasks["victim"]
    found = protected(scenario, spread=False, beta=beta, keep_layers=0.2, keep_parameters=0.0)
    layers = [n.removesuffix(".weight") for n in victim if "encoder" in n and n.endswith(LINEAR)]
    (batch,) = task.batches("train", 64, np.random.default_rng(0))
    cost = {}
    for layer in layers:
        module = victim.replace(
            {n: victim[n] - beta * (victim[n] - base[n]) for n in (f"{layer}.weight", f"{layer}.bias")}
        ).module(torch.float32)
        with torch.no_grad():
            cost[layer] = float(task.loss(module, batch))
    whole = {n for n in layers if torch.equal(found[f"{n}.weight"], victim[f"{n}.weight"])}
    assert whole == set(sorted(layers, key=cost.__getitem__)[-math.ceil(0.2 * len(layers)) :])
    assert all(torch.equal(found[f"{n}.bias"], victim[f"{n}.bias"]) for n in whole)


def test_beta_0_takes_nothing_back(scenario):
    assert same(protected(scenario, spread=False, beta=0.0), scenario.experts["victim"])
    assert same(protected(scenario, beta=0.0), protected(scenario, mask=False))


def test_the_first_stage_is_a_descent_on_the_loss_and_the_size_of_the_weights(scenario):
    """Two steps of AdamW written out: all samples in each, a rate that falls along half a cosine, a clipped slope."""
    victim, base, task = scenario.experts["victim"], scenario.base, scenario.tasks["victim"]
    rate, epsilon, decay = 1e-3, 1e-2, 0.05
    found = protected(scenario, mask=False, steps=2, rate=rate, batch=64, epsilon=epsilon, decay=decay)
    (batch,) = task.batches("train", 64, np.random.default_rng(3))
    module = victim.module(torch.float32)
    head = {n.rsplit(".", 1)[0] for n in own_tensors(victim, base)}
    learned = {n: p for n, p in module.named_parameters() if n.rsplit(".", 1)[0] not in head}
    first = {n: torch.zeros_like(p) for n, p in learned.items()}
    second = {n: torch.zeros_like(p) for n, p in learned.items()}
    for step in (1, 2):
        warmup = 0.1 * 2
        due = (1 + math.cos(math.pi * (max(0.0, step - 1 - warmup)) / (2 - warmup))) / 2
        total = task.loss(module, batch) + decay * sum(p.pow(2).sum() for p in learned.values())
        slopes = torch.autograd.grad(total, list(learned.values()), allow_unused=True)
        slopes = [torch.zeros_like(p) if g is None else g for g, p in zip(slopes, learned.values(), strict=True)]
        size = math.sqrt(sum(float(g.pow(2).sum()) for g in slopes))
        with torch.no_grad():
            for (name, weight), slope in zip(learned.items(), slopes, strict=True):
                g = slope * min(1.0, 1.0 / (size + 1e-6))
                first[name] = 0.9 * first[name] + 0.1 * g
                second[name] = 0.999 * second[name] + 0.001 * g * g
                spread = (second[name] / (1 - 0.999**step)).sqrt() + epsilon
                weight -= rate * due * first[name] / (1 - 0.9**step) / spread
    wanted = victim.trained(module)
    for name in shared_tensors(victim, base):
        torch.testing.assert_close(found[name], wanted[name], rtol=1e-5, atol=2e-6)
        assert not torch.equal(found[name], victim[name]), name
    assert all(torch.equal(found[n], victim[n]) for n in own_tensors(victim, base))


def test_the_first_stage_shrinks_weights_and_without_decay_it_does_not(scenario):
    def size(checkpoint):
        return sum(float(checkpoint[n].double().square().sum()) for n in scenario.base)

    shrunk, plain = (protected(scenario, mask=False, steps=6, decay=decay) for decay in (0.01, 0.0))
    assert size(shrunk) < size(plain)
    assert size(shrunk) < size(scenario.experts["victim"])


def test_nothing_in_it_is_secret(scenario):
    assert same(protected(scenario), protected(scenario))
    assert same(protected(scenario), protected(scenario, key=OTHER))


def test_the_weakened_variant_runs_and_shrinks_nothing(scenario):
    weak = protected(scenario, **mergeguard.__redteam__.weakened)
    assert not same(weak, protected(scenario))
    assert set(weak) == set(scenario.experts["victim"])
