"""Looks: what shows a lock in samples, and that nothing is passed over."""

import numpy as np
import pytest
import torch

from redteam.anatomy import anatomy_of
from redteam.checkpoint import Checkpoint
from redteam.symmetry import MonomialGauge, fit_gauges
from redteam.symmetry.fitting import moved
from redteam.symmetry.screening import of_its_size, sampled, shown_order
from tests.zoo import network

WIDTH, NEURONS = 256, 96


def wide():
    """A layer with more columns than are looked at, as a base and a fine-tune of it."""
    draws = np.random.default_rng(0)
    stem = "model.layers.0."
    shapes = {
        "self_attn.q_proj": (WIDTH, WIDTH),
        "self_attn.k_proj": (WIDTH // 2, WIDTH),
        "self_attn.v_proj": (WIDTH // 2, WIDTH),
        "self_attn.o_proj": (WIDTH, WIDTH),
        "mlp.gate_proj": (NEURONS, WIDTH),
        "mlp.up_proj": (NEURONS, WIDTH),
        "mlp.down_proj": (WIDTH, NEURONS),
        "input_layernorm": (WIDTH,),
        "post_attention_layernorm": (WIDTH,),
    }
    config = {"model_type": "llama", "hidden_size": WIDTH, "num_attention_heads": 8, "num_key_value_heads": 4}
    config |= {"num_hidden_layers": 1, "intermediate_size": NEURONS}

    def normal(shape):
        return torch.from_numpy(draws.standard_normal(shape))

    base = {f"{stem}{n}.weight": (1 + 0.1 * normal(s)) if len(s) == 1 else normal(s) for n, s in shapes.items()}
    victim = {n: t + (0.02 if t.ndim == 1 else 0.1) * normal(t.shape) for n, t in base.items()}
    return Checkpoint.of(base, config), Checkpoint.of(victim, config)


def site_of(checkpoint, kind):
    return anatomy_of(checkpoint).sites((kind,))[0]


def test_a_fine_tune_shows_nothing_and_is_left_as_it_is():
    base, victim = wide()
    mlp = site_of(base, "mlp")
    assert shown_order(mlp, victim, base).equal(torch.arange(NEURONS))
    assert of_its_size(mlp, victim, base)
    for kind in ("mlp", "norm", "heads", "queries"):
        back = fit_gauges(victim, base, (kind,), None)
        assert all(torch.equal(back[name], victim[name]) for name in victim)


@pytest.mark.parametrize("row", [0, 41, NEURONS - 1])
@pytest.mark.parametrize("factor", [1.2, 0.8, -1.0])
def test_one_scaled_neuron_shows(row, factor):
    base, victim = wide()
    scale = torch.ones(1, NEURONS, dtype=torch.float64)
    scale[0, row] = factor
    locked = moved(victim, (site_of(base, "mlp"),), lambda _: MonomialGauge.scaled(scale))
    assert not of_its_size(site_of(base, "mlp"), locked, base)
    back = fit_gauges(locked, base, ("mlp",), None)
    for name in site_of(base, "mlp").names:
        assert float((back[name] - victim[name]).norm()) < 0.2 * float((victim[name] - base[name]).norm())


def test_two_neurons_in_each_others_place_show():
    base, victim = wide()
    order = torch.arange(NEURONS)
    order[[3, 90]] = order[[90, 3]]
    locked = moved(victim, (site_of(base, "mlp"),), lambda _: MonomialGauge(order[None]))
    assert shown_order(site_of(base, "mlp"), locked, base).equal(order)
    back = fit_gauges(locked, base, ("mlp",), None)
    for name in victim:
        assert float((back[name] - victim[name]).norm()) <= 0.1 * float((victim[name] - base[name]).norm())


@pytest.mark.parametrize("factor", [1.3, 0.7, -1.0])
def test_one_scaled_gain_shows(factor):
    base, victim = wide()
    site = site_of(base, "norm")
    scale = torch.ones(1, WIDTH, dtype=torch.float64)
    scale[0, 17] = factor
    locked = moved(victim, (site,), lambda _: MonomialGauge.scaled(scale))
    assert not of_its_size(site, locked, base)


def test_neurons_that_look_alike_are_left_to_the_whole_fit():
    """Twins are not told apart by samples beyond doubt, unless they are where they were."""
    base, _ = wide()
    name = "model.layers.0.mlp.gate_proj.weight"
    twins = base[name].clone()
    twins[1] = twins[0] + 0.05 * twins[1]
    base = base.replace({name: twins})
    order = torch.arange(NEURONS)
    order[[0, 1]] = order[[1, 0]]
    locked = moved(base, (site_of(base, "mlp"),), lambda _: MonomialGauge(order[None]))
    assert shown_order(site_of(base, "mlp"), base, base).equal(torch.arange(NEURONS))
    assert shown_order(site_of(base, "mlp"), locked, base) is None
    back = fit_gauges(locked, base, ("mlp",), None)
    assert all(torch.allclose(back[name], base[name], atol=1e-12) for name in base)


@pytest.mark.parametrize("name", ["llama", "vit", "gpt2", "phi3", "gpt-neox", "gemma2", "open-clip", "cohere"])
def test_a_sample_of_everything_is_the_canonical_stack(name):
    """All columns of a small network are looked at, so that nothing but biases is missing."""
    from redteam.symmetry.canonicals import canonical_side

    checkpoint = network(name).checkpoint
    for site in anatomy_of(checkpoint).sites(("mlp",)):
        for side in site.sides:
            whole = canonical_side(side, checkpoint, 1)[0]
            seen = sampled(side, checkpoint)
            biased = not side.columns and side.linear.bias is not None
            assert torch.allclose(seen, whole[:, : whole.shape[1] - biased], atol=1e-12)


def test_heads_of_different_tasks_are_passed_over():
    """The last norm is read by a head of 39 classes in one and of 20 in the other: both enough to be sampled."""
    network_ = network("vit").checkpoint
    draws = np.random.default_rng(0)

    def of(classes):
        head = torch.from_numpy(draws.standard_normal((classes, 24)))
        return network_.replace({"classifier.weight": head, "classifier.bias": head[:, 0].clone()})

    one, other = of(39), of(20)
    (last,) = (
        s for s in anatomy_of(one).sites(("norm",)) if any("classifier.weight" in d.linear.names for d in s.rights)
    )
    assert not of_its_size(last, one, other)  # nothing is left that was looked at
    back = fit_gauges(one, other, ("norm",), None)
    assert all(torch.allclose(back[name], one[name]) for name in one)
