import dataclasses

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from redteam.errors import BadSetting
from redteam.symmetry import Dense, GeneralLinear, Orthogonal, Permutation, Permuted, Stacks

GROUPS = [Permutation(), Permutation(scale_free=True), Orthogonal(), GeneralLinear(), GeneralLinear(factor="gaussian")]
groups = pytest.mark.parametrize("group", GROUPS, ids=repr)


def stacks(batch, width, seed=0):
    draws = np.random.default_rng(seed)
    return Stacks(*(torch.from_numpy(draws.standard_normal((batch, width, k))) for k in (2 * width + 3, width + 5)))


@groups
@settings(deadline=None, max_examples=15)
@given(batch=st.integers(1, 3), width=st.integers(1, 9), seed=st.integers(0, 10**6))
def test_sample_then_fit_is_the_identity(group, batch, width, seed):
    target = stacks(batch, width)
    moving = target.moved(group.sample(batch, width, np.random.default_rng(seed)))
    back = moving.moved(group.fit(moving, target))
    assert back.distance(target) ** 0.5 < 1e-8 * target.distance(Stacks(0 * target.left, 0 * target.right)) ** 0.5


@groups
def test_a_gauge_acts_as_its_matrix(group):
    gauge, pair = group.sample(3, 7, np.random.default_rng(0)), stacks(3, 7)
    matrix = gauge.left(torch.eye(7, dtype=torch.float64).expand(3, 7, 7))
    assert torch.allclose(gauge.left(pair.left), matrix @ pair.left)
    assert torch.allclose(gauge.right(pair.right), torch.linalg.inv(matrix).mT @ pair.right)
    moved = pair.moved(gauge)
    assert torch.allclose(moved.left.mT @ moved.right, pair.left.mT @ pair.right)
    assert torch.allclose(gauge.condition(), torch.linalg.cond(matrix))
    assert moved.moved(gauge.inverse()).distance(pair) < 1e-16
    assert gauge.group == group.name
    assert (gauge.batch, gauge.width) == (3, 7)


@groups
def test_samples_follow_from_the_generator_alone(group):
    torch.manual_seed(0)
    one = group.sample(2, 6, np.random.default_rng(1)).left(stacks(2, 6).left)
    state = torch.get_rng_state()
    same = group.sample(2, 6, np.random.default_rng(1)).left(stacks(2, 6).left)
    other = group.sample(2, 6, np.random.default_rng(2)).left(stacks(2, 6).left)
    assert torch.equal(one, same)
    assert not torch.equal(one, other)
    assert not torch.equal(one[0], one[1])
    assert torch.equal(state, torch.get_rng_state())


def test_rotations_are_haar():
    matrix = Orthogonal().sample(4000, 3, np.random.default_rng(0)).matrix
    assert torch.allclose(matrix @ matrix.mT, torch.eye(3, dtype=torch.float64).expand(4000, 3, 3), atol=1e-12)
    assert abs(float((torch.linalg.det(matrix) > 0).double().mean()) - 0.5) < 0.03  # reflections too
    assert matrix.mean(0).abs().max() < 0.04
    traces = matrix.diagonal(dim1=1, dim2=2).sum(1)
    assert abs(float(traces.square().mean()) - 1) < 0.08  # the mean of tr² over O(n) is 1; without sign fixing it isn't


@pytest.mark.parametrize("scale", [(0.5, 2.0), (0.01, 100.0)])
def test_the_diagonal_is_log_uniform_with_random_signs(scale):
    matrix = GeneralLinear(scale=scale).sample(300, 8, np.random.default_rng(0)).matrix
    sizes = torch.linalg.vector_norm(matrix, dim=-1)  # rows of diagonal × permutation × rotation
    low, high = np.log(scale)
    assert np.log(scale[0]) <= sizes.log().min() < low + 0.02 * (high - low)
    assert high - 0.02 * (high - low) < sizes.log().max() <= high
    assert abs(float(sizes.log().mean())) < 0.05 * high
    assert float(torch.linalg.cond(matrix).max()) <= scale[1] / scale[0] * (1 + 1e-9)
    turned = matrix / sizes[:, :, None]
    assert torch.allclose(turned @ turned.mT, torch.eye(8, dtype=torch.float64).expand(300, 8, 8), atol=1e-12)


def test_the_gaussian_factor_is_normalised():
    matrix = GeneralLinear(scale=(1.0, 1.0), factor="gaussian").sample(200, 16, np.random.default_rng(0)).matrix
    assert abs(float(matrix.square().mean()) * 16 - 1) < 0.05


@pytest.mark.parametrize("scale", [(0.0, 1.0), (-1.0, 1.0), (2.0, 1.0), (1.0, float("inf")), (float("nan"), 1.0)])
def test_a_bad_range_is_refused(scale):
    with pytest.raises(BadSetting, match="range of the diagonal"):
        GeneralLinear(scale=scale)


def test_an_unknown_factor_is_refused():
    with pytest.raises(BadSetting, match="gauss"):
        GeneralLinear(factor="gauss")


def test_cosine_finds_a_permutation_under_a_scale():
    target = stacks(2, 12)
    target = Stacks(target.left + 8 * target.left[:, :1], target.right + 8 * target.right[:, :1])  # neurons look alike
    order = Permutation().sample(2, 12, np.random.default_rng(1))
    scale = torch.from_numpy(np.exp(np.random.default_rng(2).uniform(-4, 4, (2, 12, 1))))
    permuted = target.moved(order)
    moving = Stacks(permuted.left * scale, permuted.right / scale)
    found = Permutation(scale_free=True).fit(moving, target)
    assert torch.equal(found.index, order.inverse().index)
    assert not torch.equal(Permutation().fit(moving, target).index, order.inverse().index)


def test_ties_are_decided_the_same_way_and_cost_nothing():
    target = stacks(1, 8)
    target.left[0, 3], target.right[0, 3] = target.left[0, 5], target.right[0, 5]  # twins
    target.left[0, 6:], target.right[0, 6:] = 0, 0  # dead neurons
    moving = target.moved(Permutation().sample(1, 8, np.random.default_rng(3)))
    for group in (Permutation(), Permutation(scale_free=True)):
        found = group.fit(moving, target)
        assert torch.equal(found.index, group.fit(moving, target).index)
        assert moving.moved(found).distance(target) == 0


def test_a_wide_permutation_holds_no_matrix():
    gauge = Permutation().sample(1, 50_000, np.random.default_rng(0))
    assert isinstance(gauge, Permuted)
    assert gauge.left(torch.zeros(1, 50_000, 2)).shape == (1, 50_000, 2)


def test_gauges_and_groups_are_frozen():
    with pytest.raises(dataclasses.FrozenInstanceError):
        Dense(torch.eye(2)[None]).matrix = None
    assert len({Permutation(), Permutation(), Orthogonal(), GeneralLinear()}) == 3
