"""Neurons from what they were seen to do: their weights by nonlinear least squares, all neurons at once."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

_STEPS = 12
_SAME = 8  # steps with one matrix at most: making it costs as much as five or six of them
_SLOWS = 0.3  # of what the last step gained: while the next gains less than that, the matrix still serves
_STRAY = 5.0  # times the median neuron's distance from its start
_PART = 2**25  # numbers in the normal matrices of the neurons that are fitted at a time


def regressed(
    inputs: Tensor,
    outputs: Tensor,
    start: Tensor,
    activation: Callable[[Tensor], Tensor],
    *,
    ridge: float,
    settled: float = 1e-13,
) -> Tensor:
    """min over w of mean (φ(w·x) − h)² + ridge ‖w − w₀‖² · mean ‖x‖² ÷ d for every neuron, by Levenberg and Marquardt.

    A bias is one more column of ones. The ridge is in units of the inputs' mean square, so that it weighs the same
    whatever their scale: along directions that the inputs do not show, neurons stay where they start.

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
    parts = zip(outputs.split(size, 1), start.split(size), strict=True)
    fitted = torch.cat([_part(inputs, h, first, activation, ridge * scale, settled) for h, first in parts])
    away = (fitted - start).norm(dim=1, keepdim=True)
    return torch.where(away <= _STRAY * away.median(), fitted, start)


def _part(
    x: Tensor, h: Tensor, start: Tensor, activation: Callable[[Tensor], Tensor], ridge: float, enough: float
) -> Tensor:
    weights, damping = start.clone(), torch.full((len(start),), 1e-3, dtype=x.dtype, device=x.device)
    value, slope = _both(activation, x @ weights.T)
    cost = _cost(value - h, weights - start, ridge)
    left = torch.arange(len(start), device=x.device)
    for _ in range(_STEPS):
        factor, failed = _factored(x, slope[:, left], damping[left], ridge)
        settled = torch.zeros_like(left, dtype=torch.bool)
        going, last = torch.arange(len(left), device=x.device), torch.full_like(cost[left], torch.inf)
        for turn in range(_SAME):
            some = left[going]
            gradient = ((value[:, some] - h[:, some]) * slope[:, some]).T @ x / len(x)
            gradient += ridge * (weights[some] - start[some])
            tried = weights[some] - torch.cholesky_solve(gradient[..., None], factor[going])[..., 0]
            new_value, new_slope = _both(activation, x @ tried.T)
            new_cost = _cost(new_value - h[:, some], tried - start[some], ridge)
            gained = torch.where(failed[going] == 0, cost[some] - new_cost, -torch.inf).nan_to_num(nan=-torch.inf)
            better, settled[going] = gained > 0, gained.abs() <= enough * cost[some]
            if not turn:
                damping[some] *= torch.where(better, 0.1, 10.0)
            moved = some[better]
            weights[moved], cost[moved] = tried[better], new_cost[better]
            value[:, moved], slope[:, moved] = new_value[:, better], new_slope[:, better]
            goes = better & ~settled[going] & (gained < _SLOWS * last)
            going, last = going[goes], gained[goes]
            if not len(going):
                break
        left = left[~settled]
        if not len(left):
            break
    return weights


def _factored(x: Tensor, slope: Tensor, damping: Tensor, ridge: float) -> tuple[Tensor, Tensor]:
    """Cholesky factors of the damped normal matrices, [m, d, d], and where there is none, not 0."""
    normal = _normal(x, slope.square().T)
    diagonal = normal.diagonal(dim1=1, dim2=2)
    size = diagonal.mean(1).clamp_min(torch.finfo(x.dtype).tiny)
    diagonal += (ridge + damping * size)[:, None]
    factor, failed = torch.linalg.cholesky_ex(normal)
    return factor, failed


def _normal(x: Tensor, curved: Tensor) -> Tensor:
    """Xᵀ diag(c) X ÷ n for every row c of `curved`, float64 [m, d, d]; each entry above the diagonal serves for both.

    Products are taken in float32, for half the time: a matrix that is off by that much takes steps to the same place,
    since where a step leads is what the gradient says, and that is in float64.
    """
    small, weighed = x.float(), curved.float() / len(x)
    normal = x.new_empty(len(curved), x.shape[1], x.shape[1])
    for i in range(x.shape[1]):
        normal[:, i, i:] = normal[:, i:, i] = (weighed @ (small[:, i:] * small[:, i, None])).double()
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
