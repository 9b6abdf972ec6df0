"""Rotary planes exchanged: exact where frequencies are equal, nearly so where they are near, and put back by a fit."""

import numpy as np
import pytest
import torch

from redteam.checkpoint import Checkpoint
from redteam.errors import BadSetting
from redteam.key import Key
from redteam.symmetry import Planar, Stacks
from redteam.symmetry.planes import ExchangeLock, PlaneExchange, exchangeable, fit_planes
from tests.zoo import network

KEY = Key.derive(seed=0, index=0, name="planes")
SLOW = tuple(1e-5 / (plane + 1) for plane in range(12))  # windows as wide as they can be
LAYOUTS = pytest.mark.parametrize("layout", ["half", "interleaved"])


def stacks(width, seed=0):
    draws = np.random.default_rng(seed)
    return Stacks(*(torch.from_numpy(draws.standard_normal((3, width, k))) for k in (40, 25)))


@LAYOUTS
@pytest.mark.parametrize("rest", [0, 5])
def test_sample_then_fit_restores_the_order_under_any_angle_and_scale(layout, rest):
    target, group = stacks(24 + rest), PlaneExchange(SLOW, layout=layout)
    gauge = group.sample(3, 24 + rest, np.random.default_rng(1))
    assert not gauge.stays
    turned = target.moved(gauge)
    whole = Planar(layout=layout).sample(3, 24, np.random.default_rng(2))
    turned = Stacks(
        torch.cat([whole.left(turned.left[:, :24]), turned.left[:, 24:]], 1),
        torch.cat([whole.right(turned.right[:, :24]), turned.right[:, 24:]], 1),
    )
    found = group.fit(turned, target)
    assert torch.equal(found.index, gauge.inverse().index)
    assert torch.equal(gauge.index[:, 24:], torch.arange(24, 24 + rest).expand(3, -1))


@LAYOUTS
def test_both_rows_of_a_plane_move_together(layout):
    gauge = PlaneExchange(SLOW, layout=layout).sample(2, 24, np.random.default_rng(0))
    rows = gauge.index.reshape(2, 2, 12).transpose(1, 2) if layout == "half" else gauge.index.reshape(2, 12, 2)
    partner = rows[..., 0] + (12 if layout == "half" else 1)
    assert torch.equal(rows[..., 1], partner)


def test_no_plane_leaves_its_window():
    group = PlaneExchange(SLOW, window=3)
    for seed in range(20):
        index = group.sample(2, 24, np.random.default_rng(seed)).index[:, :12]
        assert int((index - torch.arange(12)).abs().max()) <= 2
    far = stacks(24)
    swapped = torch.arange(24)
    swapped[[0, 11, 12, 23]] = torch.tensor([11, 0, 23, 12])
    moving = Stacks(far.left[:, swapped], far.right[:, swapped])
    index = group.fit(moving, far).index[:, :12]
    assert int((index - torch.arange(12)).abs().max()) <= 2
    assert torch.equal(PlaneExchange(SLOW, window=12).fit(moving, far).index[0], swapped)


def test_fast_planes_stay_and_slow_ones_change_places():
    rotary = tuple(1e4 ** (-plane / 32) for plane in range(32))
    group = PlaneExchange(rotary)
    index = torch.cat([group.sample(1, 64, np.random.default_rng(seed)).index[:, :32] for seed in range(40)])
    moved = (index != torch.arange(32)).double().mean(0)
    assert float(moved[:10].max()) == 0.0
    assert float(moved[-8:].min()) > 0.3


def test_equal_planes_come_out_in_some_order_that_fits_as_well():
    target = stacks(24)
    target.left[:, 1], target.left[:, 13] = target.left[:, 0], target.left[:, 12]
    target.right[:, 1], target.right[:, 13] = target.right[:, 0], target.right[:, 12]
    group = PlaneExchange(SLOW)
    moving = target.moved(group.sample(3, 24, np.random.default_rng(3)))
    assert moving.moved(group.fit(moving, target)).distance(target) < 1e-20
    same = Stacks(torch.zeros(1, 24, 4, dtype=torch.float64), torch.zeros(1, 24, 4, dtype=torch.float64))
    assert group.fit(same, same).stays


def config(theta):
    net = network("llama")
    return net, Checkpoint.of(
        dict(net.checkpoint),
        {**net.checkpoint.config, "rope_parameters": {"rope_type": "default", "rope_theta": theta}},
    )


@pytest.mark.parametrize(("theta", "least", "most"), [(1.0, 0.0, 1e-12), (1.001, 1e-9, 1e-2), (3.0, 1e-2, 10.0)])
def test_the_function_stays_as_far_as_frequencies_are_equal(theta, least, most):
    net, base = config(theta)
    open_to, first = next(iter(exchangeable(base, 8).items()))
    group = PlaneExchange(first.frequencies, sharpness=0.0)
    gauge = next(g for g in (group.sample(2, 6, np.random.default_rng(s)) for s in range(20)) if not g.stays)
    moved = base.replace(open_to.apply(base, gauge))
    (one,), (two,) = net.computed(moved), net.computed(base)
    assert least <= float((one - two).abs().max() / two.abs().max()) <= most


def test_the_lock_comes_off_by_its_key_and_by_the_base():
    _, base = config(1.0)
    lock = ExchangeLock(8, KEY.generator)
    locked = lock.put_on(base)
    assert max(float((locked[n] - base[n]).abs().max()) for n in base) > 0.1
    for back in (lock.take_off(locked), fit_planes(locked, base, 8)):
        assert max(float((back[n] - base[n]).abs().max()) for n in base) < 1e-9


def test_where_no_planes_can_be_exchanged_nothing_is():
    for name in ("gpt2", "qwen3"):  # no rotary embedding; a norm of queries and keys
        base = network(name).checkpoint
        assert not exchangeable(base, 8)
        assert fit_planes(base, base, 8) is base


def test_an_empty_window_is_refused():
    with pytest.raises(BadSetting, match="at least 1"):
        PlaneExchange(SLOW, window=0)
