"""Which lock is there: no false alarms on fine-tuned models, no missed or misnamed locks."""

from __future__ import annotations

from dataclasses import fields, replace

import numpy as np
import pytest
import torch

from redteam.anatomy import Stacks, anatomy_of
from redteam.audit.compared import compared
from redteam.audit.explain import Explainer, square
from redteam.key import Key
from redteam.symmetry import GROUPS, at
from tests.zoo import network

KEY = Key.derive(seed=0, index=0, name="audit")
LOCKABLE = ("qk", "vo", "mlp", "qk-norm", "norm", "residual", "norm-scale")


@pytest.mark.parametrize("stored", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("task", ["digits", "letters", "shapes", "textures"])
def test_fine_tuning_is_no_lock(digits, task, stored):
    expert, explainer = digits.experts[task].to(stored), Explainer()
    for site in anatomy_of(expert).places:
        found = explainer.explain(site, *compared(site, expert, digits.base), precision=torch.finfo(stored).eps)
        assert found.group is None, (site.label, found)
        assert found.before <= 2 * found.after


def test_rounding_is_no_lock(digits):
    rounded, explainer = digits.base.to(torch.bfloat16), Explainer()
    for site in anatomy_of(rounded).places:
        found = explainer.explain(
            site, *compared(site, rounded, digits.base), precision=torch.finfo(torch.bfloat16).eps
        )
        assert found.group is None


def scalable(name):
    return "scale" in {field.name for field in fields(GROUPS[name]())}


@pytest.mark.parametrize(
    ("name", "weak"), [(name, weak) for name in GROUPS for weak in (False, True) if scalable(name) or not weak]
)
def test_every_lock_is_found_and_called_by_its_group(digits, tuned, name, weak):
    """On a real expert, or a network that allows it, wherever it is legal; weak: factors between 1/2 and 2."""
    expert, base = digits.experts["digits"], digits.base
    for other in ("qwen3", "gpt-neox", "cohere", "resnet"):
        if not any(name in site.legal for site in anatomy_of(base).sites(LOCKABLE)):
            base = network(other).checkpoint
            expert = tuned(base)
    sites = [site for site in anatomy_of(base).sites(LOCKABLE) if name in site.legal]
    assert sites
    explainer = Explainer()
    for site in sites:
        group = at(GROUPS[name](), site)
        group = replace(group, scale=(0.5, 2.0)) if weak else group
        moving, target = compared(site, expert, base)
        gauge = group.sample(site.heads, site.width, KEY.generator(site.label))
        found = explainer.explain(site, moving.moved(gauge), target)
        if site.part == "final":  # the base lacks the head that reads these gains: signs pass for factors
            assert found.group in gauge.groups, site.label
            continue
        assert found.group == gauge.group, site.label
        assert found.after <= 1.02 * moving.distance(target), "and it comes off whole"


@pytest.mark.parametrize("name", ["permutation", "orthogonal", "general-linear", "scaling"])
def test_a_lock_on_the_base_itself_is_found_though_nothing_remains(digits, name):
    site = anatomy_of(digits.base).sites(("vo",))[0]
    target = compared(site, digits.base, digits.base)[1]
    gauge = at(GROUPS[name](), site).sample(site.heads, site.width, KEY.generator("x"))
    found = Explainer().explain(site, target.moved(gauge), target)
    assert found.group == name
    assert found.after < 1e-12 * square(target)


def test_a_lock_smaller_than_the_training_is_not_claimed(digits):
    expert = digits.experts["digits"]
    site = anatomy_of(expert).sites(("qk",))[0]
    moving, target = compared(site, expert, digits.base)
    gauge = replace(at(GROUPS["positive-scaling"](), site), scale=(0.99, 1.01)).sample(
        site.heads, site.width, KEY.generator("x")
    )
    assert Explainer().explain(site, moving.moved(gauge), target).group is None


def test_a_stranger_is_not_explained(digits):
    site = anatomy_of(digits.base).sites(("qk",))[0]
    _, target = compared(site, digits.base, digits.base)
    draws = np.random.default_rng(0)
    stranger = Stacks(
        *(x.std() * torch.from_numpy(draws.standard_normal(tuple(x.shape))) for x in (target.left, target.right))
    )
    found = Explainer().explain(site, stranger, target)
    assert found.group is None
    assert found.after > square(target)


def test_a_group_with_as_many_dimensions_as_there_are_weights_proves_nothing(digits):
    """A fit of n² numbers to 2 n weights leaves nothing of any noise, so that it is no evidence of a lock."""
    site = replace(anatomy_of(digits.base).sites(("vo",))[0], heads=1)
    draws = np.random.default_rng(0)
    target = Stacks(*(torch.from_numpy(draws.standard_normal((1, 16, 8))) for _ in range(2)))
    moving = Stacks(
        target.left + 0.05 * torch.randn(1, 16, 8, generator=torch.Generator().manual_seed(0)), target.right
    )
    assert Explainer().explain(site, moving, target).group is None


def test_training_of_one_map_alone_is_no_lock(digits):
    """A gauge could share the change out between gain and columns, and would halve the distance."""
    for kind, index in (("norm", 0), ("vo", 0), ("qk", 1)):
        site = anatomy_of(digits.base).sites((kind,))[0]
        target = compared(site, digits.base, digits.base)[1]
        sides = [target.left, target.right]
        sides[index] = 1.05 * sides[index]
        assert Explainer().explain(site, Stacks(*sides), target).group is None, kind
