import numpy as np
import pytest
import torch
from hypothesis import example, given, settings
from hypothesis import strategies as st

from redteam.symmetry.tied_scalar import scalars

BATCH, N = 3, 40


def normal(*shape, seed=0, dtype=torch.float64):
    draws = torch.from_numpy(np.random.default_rng((seed, *shape)).standard_normal((*shape, 2)))
    return draws[..., 0] if dtype == torch.float64 else torch.view_as_complex(draws)


def cost(s, left, right, left0, right0):
    """[B, n], the cost row by row."""
    one, two = s[..., None] * left - left0, right / s.conj()[..., None] - right0
    return one.abs().square().sum(-1) + two.abs().square().sum(-1)


def near(size, dtype, spread=0.0):
    """Rows at every distance from their targets, and of very unlike lengths."""
    target = [normal(BATCH, N, k, seed=k, dtype=dtype) for k in (9, 5)]
    length = (spread * normal(BATCH, N, 1, seed=3)).exp()
    moving = [x + size * normal(*x.shape, seed=4, dtype=dtype) for x in target]
    return moving[0] * length, moving[1], target[0], target[1] / length


kinds = pytest.mark.parametrize("dtype", [torch.float64, torch.complex128])


@kinds
@pytest.mark.parametrize("size", [0.0, 0.1, 1.0, 30.0])
@pytest.mark.parametrize("spread", [0.0, 5.0])
def test_perturbing_the_optimum_never_lowers_the_cost(dtype, size, spread):
    rows = near(size, dtype, spread)
    best = scalars(*rows)
    here = cost(best, *rows)
    for seed in range(20):
        for step in (1e-6, 1e-3, 0.3):
            there = cost(best * (1 + step * normal(BATCH, N, seed=seed, dtype=dtype)), *rows)
            assert (there >= here * (1 - 1e-12) - 1e-22).all()


@settings(deadline=None, max_examples=200)
@given(st.integers(0, 10**6), st.floats(-6, 6), st.floats(-6, 6))
def test_real_rows_get_the_best_root_of_the_quartic(seed, up, down):
    draws = np.random.default_rng(seed)
    left, right, left0, right0 = (torch.from_numpy(draws.standard_normal((1, 1, k))) for k in (3, 2, 3, 2))
    rows = left, right, left0 * np.exp(up), right0 * np.exp(down)
    a, b = (float(x.square().sum()) for x in rows[:2])
    p, q = float((rows[0] * rows[2]).sum()), float((rows[1] * rows[3]).sum())
    roots = np.roots([a, -p, 0, q, -b])
    real = torch.tensor([[z.real] for z in roots if abs(z.imag) < 1e-6 * abs(z)])
    best = float(min(cost(s[None], *rows).min() for s in real))
    assert float(cost(scalars(*rows), *rows)) <= best * (1 + 1e-9)


@settings(deadline=None, max_examples=200)
@given(st.integers(0, 10**6), st.floats(-6, 6), st.floats(-6, 6), st.integers(2, 3))
@example(64147, 3.171875, 3.171875, 3)  # two minima, the lower of which is not the lower one on a grid
def test_positive_factors_whose_power_the_right_side_takes(seed, up, down, k):
    """The best positive root of `a s²ᵏ⁺² − p s²ᵏ⁺¹ + k q sᵏ − k b`, and the smaller power's where that is asked for."""
    draws = np.random.default_rng(seed)
    left, right, left0, right0 = (torch.from_numpy(draws.standard_normal((1, 1, n))) for n in (3, 2, 3, 2))
    left0, right0 = left0 * np.exp(up), right0 * np.exp(down)

    def at(s):
        return float((s * left - left0).square().sum() + (right / s**k - right0).square().sum())

    a, b = (float(x.square().sum()) for x in (left, right))
    p, q = float((left * left0).sum()), float((right * right0).sum())
    roots = np.roots([a, -p, *[0] * k, k * q, *[0] * (k - 1), -k * b])
    best = min(at(z.real) for z in roots if abs(z.imag) < 1e-6 * abs(z) and z.real > 0)
    found = scalars(left, right, left0, right0, positive=True, power=k)
    assert at(float(found)) <= best * (1 + 1e-9)


def test_a_power_where_one_side_is_zero():
    left, right, left0, right0 = (x.clone() for x in near(0.1, torch.float64))
    left[0], right[1], right[2], left[2] = 0, 0, 0, 0
    found = scalars(left, right, left0, right0, positive=True, power=2)
    assert (found.isfinite() & (found > 0)).all()
    one = (right[0].square().sum(-1) / (right[0] * right0[0]).sum(-1)).sqrt()
    assert torch.allclose(found[0], torch.where(one.isnan(), 1.0, one))
    assert (found[2] == 1).all()


def test_complex_rows_get_the_global_minimum():
    for size in (0.3, 1.0, 5.0):
        rows = near(size, torch.complex128)
        here = cost(scalars(*rows), *rows)
        for modulus in np.geomspace(0.02, 50, 200):
            for angle in np.linspace(0, 2 * np.pi, 60):
                s = torch.full((BATCH, N), modulus * np.exp(1j * angle))
                assert (cost(s, *rows) >= here * (1 - 1e-12)).all()


@kinds
def test_zero_rows_leave_a_number_that_can_be_divided_by(dtype):
    left, right, left0, right0 = (x.clone() for x in near(0.1, dtype))
    right[0], left[1] = 0, 0
    left[2, :9], right[2, :9] = 0, 0
    left0[2, 9:20], right0[2, 9:20] = 0, 0
    right[0, 0], left0[0, 0] = 0, 0
    found = scalars(left, right, left0, right0)
    assert found.isfinite().all()
    assert (found != 0).all()
    least = (left.conj() * left0).sum(-1) / left.abs().square().sum(-1)
    assert torch.allclose(found[0, 1:], least[0, 1:])
    assert (found[2, :9] == 1).all()
    rest = [x[1:2] for x in (left, right, left0, right0)]
    assert (cost(found[1:2] * 1.001, *rest) >= cost(found[1:2], *rest)).all()


def test_a_row_does_not_see_the_others():
    rows = near(0.5, torch.float64)
    whole = scalars(*rows)
    for i in (0, 7):
        assert torch.allclose(scalars(*(x[:, i : i + 1] for x in rows)), whole[:, i : i + 1], rtol=1e-12)
