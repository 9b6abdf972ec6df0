import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from redteam.errors import BadInput
from redteam.symmetry import GeneralLinear
from redteam.symmetry.solvers import assign, general_linear, procrustes, tied_costs
from redteam.symmetry.tied_fast import quick
from redteam.symmetry.tied_robust import careful

BATCH, N, A, C = 4, 10, 33, 24


def normal(*shape, seed=0):
    return torch.from_numpy(np.random.default_rng((seed, *shape)).standard_normal(shape))


def lock(left, right, seed, **options):
    gauge = GeneralLinear(**options).sample(len(left), left.shape[1], np.random.default_rng(seed))
    return gauge.left(left), gauge.right(right)


def moved(matrix, left, right):
    return matrix @ left, torch.linalg.solve(matrix.mT, right)


def distance(one, other):
    return float(sum((x - y).square().sum() for x, y in zip(one, other, strict=True)) ** 0.5)


@pytest.fixture
def base():
    return normal(BATCH, N, A, seed=1), normal(BATCH, N, C, seed=2)


@pytest.fixture
def victim(base):
    return base[0] + 0.1 * normal(BATCH, N, A, seed=3), base[1] + 0.1 * normal(BATCH, N, C, seed=4)


# Assignment


@settings(deadline=None, max_examples=30)
@given(batch=st.integers(1, 3), n=st.integers(1, 6), seed=st.integers(0, 1000), levels=st.sampled_from([1, 2, 3, 1000]))
def test_assign_is_optimal(batch, n, seed, levels):
    from itertools import permutations

    profit = torch.from_numpy(np.random.default_rng(seed).integers(0, levels, (batch, n, n)).astype(float))
    index = assign(profit)
    for table, row in zip(profit, index, strict=True):
        assert sorted(row.tolist()) == list(range(n))
        best = max(sum(float(table[i, p]) for i, p in enumerate(order)) for order in permutations(range(n)))
        assert float(table[torch.arange(n), row].sum()) == best
    assert torch.equal(index, assign(profit.clone()))  # ties fall the same way


def test_assign_leaves_settled_heads_to_the_argmax(monkeypatch):
    import scipy.optimize

    seen = []
    real = scipy.optimize.linear_sum_assignment
    monkeypatch.setattr(scipy.optimize, "linear_sum_assignment", lambda *a, **k: seen.append(1) or real(*a, **k))
    profit = torch.eye(5, dtype=torch.float64).repeat(3, 1, 1)
    profit[1] = 0.0
    assign(profit)
    assert len(seen) == 1


# Procrustes


def test_procrustes_beats_every_other_rotation():
    cross = normal(BATCH, N, N)
    best = procrustes(cross)
    assert torch.allclose(best @ best.mT, torch.eye(N, dtype=torch.float64).expand(BATCH, N, N), atol=1e-12)
    for seed in range(20):
        other = torch.linalg.qr(normal(BATCH, N, N, seed=seed)).Q
        assert ((best * cross).sum((1, 2)) >= (other * cross).sum((1, 2))).all()


# The tied fit


@pytest.mark.parametrize("factor", ["rotation", "gaussian"])
@pytest.mark.parametrize("scale", [(1.0, 1.0), (0.01, 100.0), (1e-4, 1e4)])
def test_an_exact_lock_comes_off(base, scale, factor):
    locked = lock(*base, 5, scale=scale, factor=factor)
    fit = general_linear(*locked, *base)
    assert distance(moved(fit.matrix, *locked), base) < 1e-9 * distance(base, [0, 0])


def test_no_neighbour_is_closer(base, victim):
    locked = lock(*victim, 5)
    fit = general_linear(*locked, *base)
    here = tied_costs(*moved(fit.matrix, *locked), *base, torch.eye(N, dtype=torch.float64).expand(BATCH, N, N))
    assert torch.allclose(here, fit.cost, rtol=1e-9)
    for seed in range(20):
        step = torch.eye(N, dtype=torch.float64) + 1e-3 * normal(BATCH, N, N, seed=seed)
        assert (tied_costs(*locked, *base, step @ fit.matrix) > fit.cost).all()


def test_a_fit_is_never_worse_than_its_start_or_the_closed_forms(base, victim):
    for seed in range(3):
        locked = lock(*victim, seed)
        fit = general_linear(*locked, *base)
        assert (fit.cost <= fit.start).all()
        for closed in (
            procrustes(base[0] @ locked[0].mT + base[1] @ locked[1].mT),
            base[0] @ torch.linalg.pinv(locked[0]),
            torch.linalg.inv(base[1] @ torch.linalg.pinv(locked[1])).mT,
        ):
            assert (fit.cost <= tied_costs(*locked, *base, closed)).all()


def test_the_tied_fit_is_closer_than_least_squares(base, victim):
    locked = lock(*victim, 5)
    tied = moved(general_linear(*locked, *base).matrix, *locked)
    untied = [x0 @ torch.linalg.pinv(x) @ x for x, x0 in zip(locked, base, strict=True)]
    assert distance(tied, victim) < 0.8 * distance(untied, victim)


@pytest.mark.parametrize("factor", ["rotation", "gaussian"])
def test_two_keys_give_the_same_fit(base, victim, factor):
    fits = []
    for seed in (5, 6):
        locked = lock(*victim, seed, factor=factor)
        fits.append(moved(general_linear(*locked, *base).matrix, *locked))
    assert distance(*fits) < 1e-8 * distance(victim, base)


def test_a_fit_is_equivariant(base, victim):
    plain = general_linear(*victim, *base)
    turn = torch.linalg.qr(normal(BATCH, N, N, seed=9)).Q
    key = lock(torch.eye(N, dtype=torch.float64).expand(BATCH, N, N), base[1], 7)[0]
    turned = general_linear(*moved(key, *victim), turn @ base[0], turn @ base[1])
    assert torch.allclose(turned.cost, plain.cost, rtol=1e-9)
    assert torch.allclose(turned.matrix @ key, turn @ plain.matrix, atol=1e-8)


def test_heads_do_not_see_each_other(base, victim):
    locked = lock(*victim, 5)
    whole = general_linear(*locked, *base).matrix
    for head in range(BATCH):
        one = slice(head, head + 1)
        alone = general_linear(*(x[one] for x in (*locked, *base))).matrix
        assert torch.allclose(alone, whole[one], rtol=1e-9, atol=1e-9 * float(whole[one].abs().max()))


def _low(rank, columns, seed):
    return normal(BATCH, N, rank, seed=seed) @ normal(BATCH, rank, columns, seed=seed + 1)


SHORT = {
    "left": lambda: (_low(4, A, 1), normal(BATCH, N, C)),
    "right": lambda: (normal(BATCH, N, A), _low(4, C, 1)),
    "both": lambda: (_low(6, A, 1), _low(7, C, 3)),
    "both, one range": lambda: (
        (s := normal(BATCH, N, 3)) @ normal(BATCH, 3, A),
        s @ normal(BATCH, 3, C),
    ),
    "zero left": lambda: (torch.zeros(BATCH, N, A, dtype=torch.float64), normal(BATCH, N, C)),
    "zero right": lambda: (normal(BATCH, N, A), torch.zeros(BATCH, N, C, dtype=torch.float64)),
    "zero": lambda: (torch.zeros(BATCH, N, A, dtype=torch.float64), torch.zeros(BATCH, N, C, dtype=torch.float64)),
    "few columns": lambda: (normal(BATCH, N, 3), normal(BATCH, N, 4)),
}


@pytest.mark.parametrize("short", SHORT)
@pytest.mark.parametrize("stored", [torch.float64, torch.float32])
def test_locks_on_heads_of_short_rank_come_off(short, stored):
    base = SHORT[short]()
    locked = [x.to(stored).double() for x in lock(*base, 5)]
    fit = general_linear(*locked, *base)
    tolerance = 1e-8 if stored == torch.float64 else 1e-5
    assert distance(moved(fit.matrix, *locked), base) <= tolerance * distance(base, [0, 0])
    assert float(torch.linalg.cond(fit.matrix).max()) < 1e8


def test_a_zero_head_among_others_costs_nothing(base, victim):
    locked = lock(*victim, 5)
    whole = general_linear(*locked, *base)
    for x in (*locked, *base):
        x[1] = 0
    fit = general_linear(*locked, *base)
    others = [0, 2, 3]
    assert torch.allclose(fit.matrix[others], whole.matrix[others], rtol=1e-8, atol=1e-8)
    assert float(torch.linalg.cond(fit.matrix[1])) < 1e6


# The short way and the careful one


@pytest.mark.parametrize("scale", [(1.0, 1.0), (0.01, 100.0), (1e-4, 1e4)])
@pytest.mark.parametrize("size", [0.0, 0.03, 0.3])
def test_the_short_way_ends_where_the_careful_one_does(base, scale, size):
    victim = [x + size * normal(*x.shape, seed=3) for x in base]
    locked = lock(*victim, 5, scale=scale)
    short, sure = quick(*locked, *base, 16)
    assert sure.all() if size < 0.3 else sure.any()
    long = careful(*locked, *base, 16)
    assert torch.allclose(short.cost[sure], long.cost[sure], rtol=1e-8, atol=1e-11 * distance(base, [0, 0]) ** 2)
    ends = [[x[sure] for x in moved(fit.matrix, *locked)] for fit in (short, long)]
    assert distance(*ends) < 1e-4 * distance(victim, base) + 1e-9 * distance(base, [0, 0])
    assert (short.cost <= short.start)[sure].all()


def test_the_short_way_leaves_hard_heads_alone(base, victim):
    locked = list(lock(*victim, 5))
    locked[0][1, 3] = locked[0][1, 4]  # short rank
    locked[1][2] = lock(base[0][2:3], locked[1][2:3], 8, factor="gaussian", scale=(1.0, 1e6))[1]  # another head
    hard = torch.tensor([False, True, True, False])
    _, sure = quick(*locked, *base, 16)
    assert torch.equal(sure, ~hard)
    whole, alone = general_linear(*locked, *base), careful(*(x[hard] for x in (*locked, *base)), 16)
    for field in ("matrix", "start", "cost", "steps"):
        assert torch.equal(getattr(whole, field)[hard], getattr(alone, field))
    assert torch.equal(whole.matrix[~hard], quick(*locked, *base, 16)[0].matrix[~hard])


def test_an_unrelated_anchor_goes_the_careful_way(base):
    other = [normal(*x.shape, seed=20) for x in base]
    _, sure = quick(*base, *other, 16)
    assert not sure.any()


def test_an_anchor_without_the_head_gives_an_invertible_matrix(victim):
    nothing = [torch.zeros_like(x) for x in victim]
    fit = general_linear(*victim, *nothing)
    assert fit.matrix.isfinite().all()
    assert torch.linalg.inv(fit.matrix).isfinite().all()


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
@pytest.mark.parametrize("which", range(4))
def test_nan_and_infinity_are_refused(base, victim, which, value):
    stacks = [x.clone() for x in (*victim, *base)]
    stacks[which][2, 3, 4] = value
    with pytest.raises(BadInput, match="NaN or infinity"):
        general_linear(*stacks)
    with pytest.raises(BadInput):
        assign(stacks[which][..., :N])
    with pytest.raises(BadInput):
        procrustes(stacks[which][..., :N])
