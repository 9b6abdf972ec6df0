"""ARF against its hinge written out, and where it brings the matrices."""

import math

import numpy as np
import pytest
import torch
from redteam_defenses.arf import arf, hinge

from redteam.anatomy import anatomy_of
from redteam.checkpoint import own_tensors, shared_tensors
from redteam.key import Key
from redteam.testing import toy_scenario
from redteam.views import DefenderView

RATE, EPSILON = 1e-2, 1e-2
KEY, OTHER = Key(bytes(range(32))), Key(bytes(range(1, 33)))
MATRICES = {
    "vit": ("query.weight", "key.weight", "value.weight", "attention.output.dense.weight"),
    "bert": ("query.weight", "key.weight", "value.weight", "attention.output.dense.weight"),
}


@pytest.fixture(scope="module", params=["vit", "bert"])
def scenario(request):
    return toy_scenario(request.param, drift=0.05)


def protected(scenario, key=KEY, **settings):
    view = DefenderView(scenario.experts["victim"], scenario.base, key, scenario.tasks["victim"])
    return arf(view, **{"steps": 2, "batch": 32, **settings})


def same(one, two):
    return all(torch.equal(one[n], two[n]) for n in two)


def pushed(scenario):
    names = [n for n in scenario.base if n.endswith(MATRICES[scenario.base.architecture])]
    assert len(names) == 8  # two layers
    return names


def away(checkpoint, base, name):
    return float((checkpoint[name].double() - base[name].double()).norm() / base[name].double().norm())


@pytest.mark.parametrize("margin", [0.0, 0.05, 0.5, 3.0])
def test_the_hinge_is_the_formula(margin):
    draws = np.random.default_rng(0)
    origins = [torch.from_numpy(draws.standard_normal(shape)) for shape in ((5, 3), (4, 4), (2, 7))]
    weights = [
        (o + size * torch.from_numpy(draws.standard_normal(tuple(o.shape))))
        for o, size in zip(origins, (0.01, 0.3, 2.0), strict=True)
    ]
    wanted = 0.0
    for weight, origin in zip(weights, origins, strict=True):
        flat, there = weight.flatten().tolist(), origin.flatten().tolist()
        far = math.sqrt(sum((w - o) ** 2 for w, o in zip(flat, there, strict=True)))
        wanted += max(0.0, margin * math.sqrt(sum(o * o for o in there)) - far)
    assert float(hinge(weights, origins, margin)) == pytest.approx(wanted, abs=1e-6)


def test_the_hinge_pushes_straight_away_and_not_beyond_its_margin():
    origin = torch.eye(3, dtype=torch.float64)
    near = (origin + 0.01 * torch.arange(9.0).reshape(3, 3)).requires_grad_()
    (slope,) = torch.autograd.grad(hinge([near], [origin], 0.5), near)
    torch.testing.assert_close(slope, -(near - origin).detach() / (near - origin).norm().detach())
    beyond = (3 * origin).requires_grad_()
    (slope,) = torch.autograd.grad(hinge([beyond], [origin], 0.5), beyond)
    assert float(slope.abs().max()) == 0
    same_place = origin.clone().requires_grad_()
    (slope,) = torch.autograd.grad(hinge([same_place], [origin], 0.5), same_place)
    assert torch.isfinite(slope).all()


def test_the_push_is_on_all_attention_matrices_and_on_nothing_else(scenario):
    """A step's slope with the push less that without: λ times minus the unit vector away from the base."""
    victim, base = scenario.experts["victim"], scenario.base
    sites = anatomy_of(victim).sites(("qk", "vo"))
    assert {side.linear.weight for site in sites for side in site.sides} == set(pushed(scenario))
    weight = 0.002  # so that no slope is clipped
    task = SmallTask(scenario.tasks["victim"])
    slopes = []
    for margin in (0.0, 5.0):
        view = DefenderView(victim, base, KEY, task)
        after = arf(view, margin=margin, weight=weight, steps=1, rate=RATE, batch=64, epsilon=EPSILON)
        step = {n: (victim[n].double() - after[n].double()) / RATE for n in base}
        slopes.append({n: EPSILON * s / (1 - s.abs()) for n, s in step.items()})  # AdamW's first: g / (|g| + ε)
    for name in base:
        found = slopes[1][name] - slopes[0][name]
        direction = (victim[name] - base[name]).double()
        wanted = -weight * direction / direction.norm() if name in pushed(scenario) else torch.zeros_like(direction)
        assert float((found - wanted).norm()) <= 0.05 * weight, name


class SmallTask:
    """A task whose loss counts little."""

    def __init__(self, task):
        self.task = task

    def batches(self, *given):
        return self.task.batches(*given)

    def loss(self, module, batch):
        return 1e-3 * self.task.loss(module, batch)


def test_matrices_end_at_their_margin_or_nearer_to_it(scenario):
    victim, base = scenario.experts["victim"], scenario.base
    margin = 0.2
    after = protected(scenario, margin=margin, steps=30, rate=3e-3, epsilon=1e-8)
    plain = protected(scenario, margin=0.0, steps=30, rate=3e-3, epsilon=1e-8)
    for name in pushed(scenario):
        before, found = (away(c, base, name) for c in (victim, after))
        assert before < margin, name
        assert found >= margin or margin - found < margin - before, name
        assert found > away(plain, base, name), name


def test_the_head_stays(scenario):
    victim, base = scenario.experts["victim"], scenario.base
    found = protected(scenario)
    assert all(torch.equal(found[n], victim[n]) for n in own_tensors(victim, base))
    assert sum(not torch.equal(found[n], victim[n]) for n in shared_tensors(victim, base)) > 20


def test_nothing_in_it_is_secret(scenario):
    assert same(protected(scenario), protected(scenario))
    assert same(protected(scenario), protected(scenario, key=OTHER))


def test_it_prepares_and_without_a_margin_it_only_trains_on(scenario):
    spec = arf.__redteam__
    assert spec.prepares
    assert spec.weakened is None, "what it prepares for is weakened in its own right"
    assert same(protected(scenario, margin=0.0), protected(scenario, weight=0.0))
