import dataclasses
import itertools

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from redteam import symmetry
from redteam.anatomy import supergroups
from redteam.errors import BadInput, BadSetting
from redteam.symmetry import (
    GeneralLinear,
    MatrixGauge,
    MirroredPermutation,
    Monomial,
    MonomialGauge,
    Orthogonal,
    PartialPlanar,
    Permutation,
    Planar,
    PlaneScaling,
    PlaneSigns,
    PositiveMonomial,
    PositiveScaling,
    Scaling,
    SignedPermutation,
    Stacks,
)

GROUPS = [
    Permutation(),
    Permutation(scale_free=True),
    SignedPermutation(),
    Scaling(),
    PositiveScaling(),
    Monomial(),
    PositiveMonomial(),
    Planar(),
    Planar(layout="interleaved"),
    PlaneScaling(),
    PlaneScaling(layout="interleaved"),
    PlaneScaling(turned=2),
    PlaneSigns(),
    PlaneSigns(turned=2, layout="interleaved"),
    PartialPlanar(turned=2),
    PartialPlanar(turned=2, layout="interleaved"),
    MirroredPermutation(),
    Orthogonal(),
    GeneralLinear(),
    GeneralLinear(factor="gaussian"),
]
groups = pytest.mark.parametrize("group", GROUPS, ids=repr)
SQUARED = [PositiveScaling(power=2), PositiveMonomial(power=2)]
"""Behind a squared ReLU: no pair of matrices, since the two sides take different powers of a factor."""


def stacks(batch, width, seed=0):
    draws = np.random.default_rng(seed)
    return Stacks(*(torch.from_numpy(draws.standard_normal((batch, width, k))) for k in (2 * width + 3, width + 5)))


def needed(group, width):
    """Planes have two rows; beside those that are turned there must be others."""
    width += width % 2 if hasattr(group, "layout") else 0
    return max(width, 4) if getattr(group, "turned", None) else width


@pytest.mark.parametrize("group", [*GROUPS, *SQUARED], ids=repr)
@settings(deadline=None, max_examples=15)
@given(batch=st.integers(1, 3), width=st.integers(1, 9), seed=st.integers(0, 10**6))
def test_sample_then_fit_is_the_identity(group, batch, width, seed):
    width = needed(group, width)
    target = stacks(batch, width)
    moving = target.moved(group.sample(batch, width, np.random.default_rng(seed)))
    back = moving.moved(group.fit(moving, target))
    assert back.distance(target) ** 0.5 < 1e-8 * target.distance(Stacks(0 * target.left, 0 * target.right)) ** 0.5


@groups
def test_a_gauge_acts_as_its_matrix(group):
    gauge, pair = group.sample(3, 8, np.random.default_rng(0)), stacks(3, 8)
    matrix = gauge.left(torch.eye(8, dtype=torch.float64).expand(3, 8, 8))
    assert torch.allclose(gauge.left(pair.left), matrix @ pair.left)
    assert torch.allclose(gauge.right(pair.right), torch.linalg.inv(matrix).mT @ pair.right)
    moved = pair.moved(gauge)
    assert torch.allclose(moved.left.mT @ moved.right, pair.left.mT @ pair.right)
    assert torch.allclose(gauge.condition(), torch.linalg.cond(matrix))
    assert moved.moved(gauge.inverse()).distance(pair) < 1e-16
    assert gauge.group in (group.name, "permutation")
    if not isinstance(group, MirroredPermutation):  # with a plus it is a permutation
        partly = getattr(group, "turned", None) is not None  # in heads that are not turned whole
        assert gauge.groups == (
            supergroups(group.name) - {"planar"} | {"partial-planar"} if partly else supergroups(group.name)
        )
    assert (gauge.batch, gauge.width) == (3, 8)


@pytest.mark.parametrize("group", SQUARED, ids=repr)
def test_factors_behind_a_squared_relu(group):
    """Keeps `right · relu(left x)²`, and so do its inverse, its parts and several of them as one."""
    gauge, pair = group.sample(3, 8, np.random.default_rng(0)), stacks(3, 8)
    x = torch.from_numpy(np.random.default_rng(1).standard_normal((pair.left.shape[2], 5)))

    def out(stacks):
        return stacks.right.mT @ torch.relu(stacks.left @ x).square()

    moved = pair.moved(gauge)
    assert moved.distance(pair) > 1
    assert torch.allclose(out(moved), out(pair), rtol=1e-12, atol=1e-12)
    assert moved.moved(gauge.inverse()).distance(pair) < 1e-16
    again = MonomialGauge.of_each([gauge.part(place) for place in range(3)])
    assert pair.moved(again).distance(moved) == 0
    plain = MonomialGauge(gauge.index, gauge.scale)
    assert not torch.allclose(out(pair.moved(plain)), out(pair), rtol=0.1, atol=0.1), "the first power is wrong"


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
    for group in (Permutation(), Permutation(scale_free=True), SignedPermutation()):
        found = group.fit(moving, target)
        assert torch.equal(found.index, group.fit(moving, target).index)
        assert moving.moved(found).distance(target) == 0


@pytest.mark.parametrize("group", [Permutation(), SignedPermutation(), Scaling(), Monomial()], ids=repr)
def test_a_wide_permutation_holds_no_matrix(group):
    gauge = group.sample(1, 50_000, np.random.default_rng(0))
    assert isinstance(gauge, MonomialGauge)
    assert gauge.left(torch.zeros(1, 50_000, 2)).shape == (1, 50_000, 2)


SCALED = [SignedPermutation(), Scaling(), Monomial(), Planar(), Planar(layout="interleaved")]
scaled = pytest.mark.parametrize("group", SCALED, ids=repr)


def near(target, size, seed=8):
    noise = stacks(*target.left.shape[:2], seed)
    return Stacks(target.left + size * noise.left, target.right + size * noise.right)


@scaled
@pytest.mark.parametrize("size", [0.01, 0.3])
def test_a_fit_is_the_same_whatever_the_lock(group, size):
    target = stacks(2, 10)
    victim = near(target, size)
    plain = victim.moved(group.fit(victim, target))
    for seed in range(3):
        locked = victim.moved(group.sample(2, 10, np.random.default_rng(seed)))
        assert locked.moved(group.fit(locked, target)).distance(plain) < 1e-20 * plain.distance(near(plain, 1.0))


@scaled
def test_a_fit_turns_with_its_target(group):
    target = stacks(2, 10)
    victim = near(target, 0.1)
    turn = group.sample(2, 10, np.random.default_rng(9))
    if isinstance(group, Scaling | Monomial | Planar):  # the cost is kept by rigid motions alone
        turn = type(group)(**{**vars(group), "scale": (1.0, 1.0)}).sample(2, 10, np.random.default_rng(9))
    plain = victim.moved(group.fit(victim, target)).moved(turn)
    assert victim.moved(group.fit(victim, target.moved(turn))).distance(plain) < 1e-20


def test_a_signed_permutation_fit_beats_every_other():
    from itertools import permutations, product

    width = 4
    target = stacks(1, width)
    moving = near(target, 1.5)
    best = moving.moved(SignedPermutation().fit(moving, target)).distance(target)
    for order, sign in product(permutations(range(width)), product((-1.0, 1.0), repeat=width)):
        other = MonomialGauge(torch.tensor([order]), torch.tensor([sign], dtype=torch.float64))
        assert moving.moved(other).distance(target) >= best - 1e-9


def test_signs_do_not_hide_neurons():
    target = stacks(2, 30)
    lock = SignedPermutation().sample(2, 30, np.random.default_rng(1))
    moving = near(target, 0.1).moved(lock)
    assert torch.equal(SignedPermutation().fit(moving, target).index, lock.inverse().index)
    assert torch.equal(Monomial().fit(moving, target).index, lock.inverse().index)
    assert not torch.equal(Permutation().fit(moving, target).index, lock.inverse().index)


@pytest.mark.parametrize(
    ("name", "numbers"),
    [
        ("permutation", ([[1, 0, 2]], None)),
        ("permutation", ([[0, 1, 2]], [[1.0, 1.0, 1.0]])),
        ("signed-permutation", ([[0, 1, 2]], [[1.0, -1.0, 1.0]])),
        ("scaling", ([[0, 1, 2]], [[1.0, -2.0, 1.0]])),
        ("scaled-permutation", ([[0, 2, 1]], [[1.0, -2.0, 1.0]])),
    ],
)
def test_a_gauge_belongs_to_groups_by_its_numbers(name, numbers):
    index, scale = numbers
    gauge = MonomialGauge(torch.tensor(index), None if scale is None else torch.tensor(scale))
    assert gauge.group == name
    assert supergroups(name) <= gauge.groups
    assert ("scaling" in gauge.groups) == (index == [[0, 1, 2]])


@pytest.mark.parametrize("group", [Scaling, Monomial, Planar])
def test_factors_are_log_uniform(group):
    gauge = group(scale=(0.1, 10.0)).sample(400, 20, np.random.default_rng(0))
    number = gauge.number if group is Planar else gauge.scale
    size = number.abs().log10()
    assert -1 <= size.min() < -0.99
    assert 0.99 < size.max() <= 1
    assert abs(float(size.mean())) < 0.05
    if group is Planar:
        assert abs(float((number / number.abs()).mean().abs())) < 0.05
    else:
        assert 0.45 < float((number > 0).double().mean()) < 0.55
        positive = {Scaling: PositiveScaling, Monomial: PositiveMonomial}[group]
        assert (positive().sample(3, 20, np.random.default_rng(0)).scale > 0).all()
    with pytest.raises(BadSetting, match="low ≤ high"):
        group(scale=(1.0, 0.1))


def test_planes_need_an_even_width_and_a_known_layout():
    with pytest.raises(BadSetting, match="interleaved"):
        Planar(layout="quarter")
    for ask in (
        lambda: Planar().sample(1, 7, np.random.default_rng(0)),
        lambda: Planar().fit(stacks(1, 7), stacks(1, 7)),
    ):
        with pytest.raises(BadInput, match="even"):
            ask()


@groups
@pytest.mark.parametrize("value", [float("nan"), float("inf")])
@pytest.mark.parametrize("which", range(4))
def test_nan_is_refused_by_every_fit(group, which, value):
    pair = [stacks(2, 6), stacks(2, 6)]
    getattr(pair[which // 2], ("left", "right")[which % 2])[1, 2, 3] = value
    with pytest.raises(BadInput, match="NaN or infinity"):
        group.fit(*pair)


def test_every_group_is_found_by_its_name():
    assert all(group.name == name for name, group in symmetry.GROUPS.items())
    assert {type(group) for group in GROUPS} == set(symmetry.GROUPS.values())


def test_gauges_and_groups_are_frozen():
    with pytest.raises(dataclasses.FrozenInstanceError):
        MatrixGauge(torch.eye(2)[None]).matrix = None
    assert len({Permutation(), Permutation(), Orthogonal(), GeneralLinear()}) == 3


def test_a_group_contains_itself_and_the_smaller_ones():
    for larger, smaller in itertools.pairwise((GeneralLinear, Orthogonal, SignedPermutation, Permutation)):
        assert symmetry.contains_group(larger, smaller)
        assert not symmetry.contains_group(smaller, larger)
    for smaller in (Monomial, Scaling, PositiveScaling, SignedPermutation, Permutation):
        assert symmetry.contains_group(Monomial, smaller)
    assert symmetry.contains_group(GeneralLinear, Permutation), "over several steps"
    assert not symmetry.contains_group(Monomial, Orthogonal)
    assert not symmetry.contains_group(Orthogonal, Scaling)


@pytest.mark.parametrize(("larger", "smaller"), [*itertools.product(symmetry.GROUPS.values(), repeat=2)])
def test_what_one_group_draws_belongs_to_those_that_contain_it(larger, smaller):
    """In heads that are turned whole, but for the group which there is for others."""
    group = PartialPlanar(turned=4) if smaller is PartialPlanar else smaller()
    gauge = group.sample(2, 8, np.random.default_rng(0))
    assert symmetry.contains_group(larger, smaller) == (larger.name in gauge.groups)
