"""Neurons from what they were seen to do: their weights by nonlinear least squares, all neurons at once."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

import torch
from torch import Tensor

from redteam.checkpoint.products import product
from redteam.cores import cores

_STEPS = 4  # matrices to a fit: where there is a neuron to find two do, and where there is none no number would
_SAME = 8  # steps with one matrix at most: making it costs as much as five or six of them
_SLOWS = 0.3  # of what the last step gained: while the next gains less than that, the matrix still serves
_STRAY = 5.0  # times the median neuron's distance from its start
_PART = 2**25  # numbers in the normal matrices of the neurons that are fitted at a time
_THREADS = 4  # such parts at once, at most: each takes half a gigabyte
_AWAKE = 0.3  # of a neuron's steepest slope: where it is flatter, its output says little of its weights
_USUAL = 0.25  # the quantile of a neuron's errors that is its usual one, so that most outputs may be no neuron's
_OUTLYING = 10.0  # times the usual error
_ROUNDS = 8  # of leaving out what lies outside and fitting again


def regressed(
    inputs: Tensor,
    outputs: Tensor,
    start: Tensor,
    activation: Callable[[Tensor], Tensor],
    *,
    ridge: float,
    settled: float = 1e-13,
) -> Tensor:
    """min over w of mean κ (φ(w·x) − h)² + ridge ‖w − w₀‖² · mean ‖x‖² ÷ d for every neuron, by Levenberg–Marquardt.

    A bias is one more column of ones. The ridge is in units of the inputs' mean square, so that it weighs the same
    whatever their scale: along directions that the inputs do not show, neurons stay where they start.

    κ is 1, but 0 for outputs that are many times further off than a neuron's usually are, where these make up most of
    its cost: what stands in for a neuron may be one near some inputs and something else far from them, as a polynomial
    is. How far off is usual is seen where the neuron is awake, since all neurons agree where they sleep.

    Args:
        inputs: float64 [n, d], x.
        outputs: float64 [n, m], h.
        start: float64 [m, d], w₀.
        activation: φ, differentiable by autograd, entry by entry.
        ridge: Weight of the distance from the start.
        settled: A neuron has arrived where a step changes its cost by less than this share of it.

    Returns:
        float64 [m, d]. A neuron that no step brings closer to its outputs is returned as it started; so is one that
        strays many times as far as the others do: the inputs hardly stirred it, and its outputs say nothing of it.
    """
    scale = float(inputs.square().mean())
    size = max(1, _PART // inputs.shape[1] ** 2)

    def part(h: Tensor, first: Tensor) -> Tensor:
        return _part(inputs, h, first, activation, ridge * scale, settled)

    # Neurons do not see one another, so that parts of them come out to the same bits on a thread each.
    with ThreadPoolExecutor(min(_THREADS, cores())) as threads:
        fitted = torch.cat(list(threads.map(part, outputs.split(size, 1), start.split(size))))
    away = (fitted - start).norm(dim=1, keepdim=True)
    return torch.where(away <= _STRAY * away.median(), fitted, start)


def _part(
    x: Tensor, h: Tensor, start: Tensor, activation: Callable[[Tensor], Tensor], ridge: float, enough: float
) -> Tensor:
    """Fits without what lies outside where that carries most of a neuron's cost, and again while more turns up."""
    weights, kept = start.clone(), torch.ones_like(h, dtype=torch.bool)
    again = torch.arange(len(start), device=x.device)
    for turn in range(_ROUNDS):
        value, slope = _both(activation, x @ weights.T)
        error = (value - h).abs().nan_to_num(nan=torch.inf)
        usual, squares = _usual(error, slope.abs()), torch.where(kept, error.square(), 0.0)
        total, outside = squares.sum(0), torch.where(usual, 0.0, squares).sum(0)
        more = (outside >= total / 2) & (total > 0)
        kept[:, more] = usual[:, more]
        if turn:
            again = more.nonzero()[:, 0]
        if not len(again):
            break
        some = h[:, again], kept[:, again], weights[again], start[again]
        weights[again] = _descended(x, *some, activation, ridge, enough)
    return weights


def _usual(error: Tensor, slope: Tensor) -> Tensor:
    """Which outputs are not many times further off than the neuron usually is where it is awake; bool [n, m]."""
    awake = slope >= _AWAKE * slope.amax(0)
    return error <= _OUTLYING * torch.where(awake, error, torch.nan).nanquantile(_USUAL, 0)


def _descended(
    x: Tensor,
    h: Tensor,
    kept: Tensor,
    first: Tensor,
    start: Tensor,
    activation: Callable[[Tensor], Tensor],
    ridge: float,
    enough: float,
) -> Tensor:
    """From `first` to where the objective is least."""
    weights, damping = first.clone(), torch.full((len(start),), 1e-3, dtype=x.dtype, device=x.device)
    error, slope = _missed(activation, x, weights, h, kept)
    cost = _cost(error, weights - start, ridge)
    left = torch.arange(len(start), device=x.device)
    for _ in range(_STEPS):
        factor, failed = _factored(x, slope[:, left], damping[left], ridge)
        settled = torch.zeros_like(left, dtype=torch.bool)
        going, last = torch.arange(len(left), device=x.device), torch.full_like(cost[left], torch.inf)
        for turn in range(_SAME):
            some = left[going]
            gradient = (error[:, some] * slope[:, some]).T @ x / len(x)
            gradient += ridge * (weights[some] - start[some])
            # Ten times as fast as cholesky_solve, which copies every factor.
            step = torch.linalg.solve_triangular(factor, gradient.float()[..., None], upper=False)
            step = torch.linalg.solve_triangular(factor.mT, step, upper=True)[..., 0].double()
            tried = weights[some] - step
            new_error, new_slope = _missed(activation, x, tried, h[:, some], kept[:, some])
            new_cost = _cost(new_error, tried - start[some], ridge)
            gained = torch.where(failed[going] == 0, cost[some] - new_cost, -torch.inf).nan_to_num(nan=-torch.inf)
            better, settled[going] = gained > 0, gained.abs() <= enough * cost[some]
            if not turn:
                damping[some] *= torch.where(better, 0.1, 10.0)
            moved = some[better]
            weights[moved], cost[moved] = tried[better], new_cost[better]
            error[:, moved], slope[:, moved] = new_error[:, better], new_slope[:, better]
            goes = better & ~settled[going] & (gained < _SLOWS * last)
            if not goes.any():
                break
            going, last, factor = going[goes], gained[goes], factor[goes]
        left = left[~settled]
        if not len(left):
            break
    return weights


def _missed(
    activation: Callable[[Tensor], Tensor], x: Tensor, weights: Tensor, h: Tensor, kept: Tensor
) -> tuple[Tensor, Tensor]:
    """φ(w·x) − h and φ′, both 0 at outputs that are left out."""
    value, slope = _both(activation, x @ weights.T)
    return torch.where(kept, value - h, 0.0), torch.where(kept, slope, 0.0)


def _factored(x: Tensor, slope: Tensor, damping: Tensor, ridge: float) -> tuple[Tensor, Tensor]:
    """Cholesky factors of the damped normal matrices, float32 [m, d, d], and where there is none, not 0."""
    normal = _normal(x, slope.square().T)
    diagonal = normal.diagonal(dim1=1, dim2=2)
    size = diagonal.mean(1).clamp_min(torch.finfo(normal.dtype).tiny)
    diagonal += (ridge + damping * size)[:, None]
    factor, failed = torch.linalg.cholesky_ex(normal)
    return factor, failed


def _normal(x: Tensor, curved: Tensor) -> Tensor:
    """Xᵀ diag(c) X ÷ n for every row c of `curved`, float32 [m, d, d], the lower triangles; nothing is written above.

    Products are taken in float32, for half the time: a matrix that is off by that much takes steps to the same place,
    since where a step leads is what the gradient says, and that is in float64.
    """
    columns, weighed = x.float().T.contiguous(), curved.float() / len(x)
    normal = columns.new_empty(len(curved), x.shape[1], x.shape[1])
    for i in range(x.shape[1]):
        normal[:, i, : i + 1] = product(weighed, columns[: i + 1] * columns[i])
    return normal


def _both(activation: Callable[[Tensor], Tensor], before: Tensor) -> tuple[Tensor, Tensor]:
    """φ and φ′."""
    with torch.enable_grad():
        at = before.detach().requires_grad_()
        value = activation(at)
        (slope,) = torch.autograd.grad(value.sum(), at)
    return value.detach(), slope.clone()  # a constant slope is one number, seen from everywhere


def _cost(error: Tensor, away: Tensor, ridge: float) -> Tensor:
    """Half the objective, by neuron."""
    return (error.square().mean(0) + ridge * away.square().sum(1)) / 2
