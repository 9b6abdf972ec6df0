"""Noise has the norm that it says, and its key's holder takes it off; fresh weights have nothing of the victim."""

import numpy as np
import pytest
import torch
from redteam_defenses.fresh import fresh
from redteam_defenses.gaussian_noise import gaussian_noise

from redteam.anatomy import anatomy_of
from redteam.key import Key
from redteam.views import DefenderView, unlocked

KEY, OTHER = Key(bytes(range(32))), Key(bytes(range(1, 33)))


def expert(base, size=0.05):
    draws = np.random.default_rng(7)
    return base.replace(
        {n: t + size * t.std() * torch.from_numpy(draws.standard_normal(t.shape)) for n, t in base.items()}
    )


@pytest.mark.parametrize("share", [0.3, 1.0, 3.0])
@pytest.mark.parametrize("unit", ["task-vector", "weights"])
def test_norm_and_way_back(vit, unit, share):
    base = vit.checkpoint
    victim = expert(base)

    def defend(view):
        return gaussian_noise(view, unit=unit, share=share)

    locked = defend(DefenderView(victim, base, KEY))
    moved = {name for site in anatomy_of(base).sites(("qk", "vo")) for name in site.names}
    assert {n for n in base if not torch.equal(locked[n], victim[n])} == moved
    for name in moved:
        size = (victim[name] - base[name]).norm() if unit == "task-vector" else base[name].norm()
        assert float((locked[name] - victim[name]).norm()) == pytest.approx(share * float(size), rel=1e-9)
    back, wrong = (unlocked(locked, defend, base, key) for key in (KEY, OTHER))
    far = [float((wrong[n] - victim[n]).norm() / (locked[n] - victim[n]).norm()) for n in moved]
    assert max(float((back[n] - victim[n]).norm() / victim[n].norm()) for n in base) <= 1e-9
    assert min(far) > 0.5


def test_an_unmoved_tensor_gets_no_noise_in_units_of_its_task_vector(vit):
    base = vit.checkpoint
    locked = gaussian_noise(DefenderView(base, base, KEY))
    assert all(torch.equal(locked[name], base[name]) for name in base)
    assert all(torch.equal(unlocked(locked, gaussian_noise, base, KEY)[name], base[name]) for name in base)


def test_two_keys_give_independent_noise_of_one_norm(vit):
    base = vit.checkpoint
    victim = expert(base)
    one, two = (gaussian_noise(DefenderView(victim, base, key), sites=("mlp",)) for key in (KEY, OTHER))
    name = anatomy_of(base).sites(("mlp",))[0].names[0]
    first, second = (x[name] - victim[name] for x in (one, two))
    assert float(first.norm()) == pytest.approx(float(second.norm()), rel=1e-9)
    assert abs(float((first * second).sum() / first.norm() / second.norm())) < 0.2


def test_fresh_weights_are_the_same_network_and_nobody_elses_weights(vit):
    locked = fresh(DefenderView(vit.checkpoint, vit.checkpoint, KEY))
    assert {n: (locked.shape(n), locked.dtype(n)) for n in locked} == {
        n: (vit.checkpoint.shape(n), vit.checkpoint.dtype(n)) for n in vit.checkpoint
    }
    for name, tensor in vit.checkpoint.items():
        if tensor.numel() > 100:
            cosine = torch.nn.functional.cosine_similarity(tensor.flatten(), locked[name].flatten(), dim=0)
            assert abs(float(cosine)) < 0.4
    again, other = (fresh(DefenderView(vit.checkpoint, vit.checkpoint, OTHER), seed=seed) for seed in (0, 1))
    assert again.digest() == locked.digest() != other.digest()
