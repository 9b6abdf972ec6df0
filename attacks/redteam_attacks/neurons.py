"""Neurons from what they were seen to do: their weights by nonlinear least squares, all neurons at once."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

_STEPS = 12
_SETTLED = 1e-9  # of a neuron's cost: where a step changes it by less, it has arrived
_STRAY = 5.0  # times the median neuron's distance from its start
_PART = 64  # neurons at a time, so that their normal matrices fit


def regressed(
    inputs: Tensor, outputs: Tensor, start: Tensor, activation: Callable[[Tensor], Tensor], *, ridge: float
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

    Returns:
        float64 [m, d]. A neuron that no step brings closer to its outputs is returned as it started; so is one that
        strays many times as far as the others do: the inputs hardly stirred it, and its outputs say nothing of it.
    """
    scale = float(inputs.square().mean())
    parts = [
        _part(inputs, outputs[:, k : k + _PART], start[k : k + _PART], activation, ridge * scale)
        for k in range(0, len(start), _PART)
    ]
    fitted = torch.cat(parts)
    away = (fitted - start).norm(dim=1, keepdim=True)
    return torch.where(away <= _STRAY * away.median(), fitted, start)


def _part(x: Tensor, h: Tensor, start: Tensor, activation: Callable[[Tensor], Tensor], ridge: float) -> Tensor:
    eye = torch.eye(x.shape[1], dtype=x.dtype, device=x.device)
    weights, damping = start.clone(), torch.full((len(start),), 1e-3, dtype=x.dtype, device=x.device)
    value, slope = _both(activation, x @ weights.T)
    cost = _cost(value - h, weights - start, ridge)
    left = torch.arange(len(start), device=x.device)
    for _ in range(_STEPS):
        here, seen = weights[left], slope[:, left]
        normal = _normal(x, seen.square().T)
        size = normal.diagonal(dim1=1, dim2=2).mean(1).clamp_min(torch.finfo(x.dtype).tiny)
        normal += (ridge + damping[left] * size)[:, None, None] * eye
        gradient = ((value[:, left] - h[:, left]) * seen).T @ x / len(x) + ridge * (here - start[left])
        factor, failed = torch.linalg.cholesky_ex(normal)
        tried = here - torch.cholesky_solve(gradient[..., None], factor)[..., 0]
        new_value, new_slope = _both(activation, x @ tried.T)
        new_cost = _cost(new_value - h[:, left], tried - start[left], ridge)
        gained = torch.where(failed == 0, cost[left] - new_cost, -torch.inf).nan_to_num(nan=-torch.inf)
        settled, better = gained.abs() <= _SETTLED * cost[left], gained > 0
        moved = left[better]
        weights[moved], cost[moved] = tried[better], new_cost[better]
        value[:, moved], slope[:, moved] = new_value[:, better], new_slope[:, better]
        damping[left] *= torch.where(better, 0.1, 10.0)
        left = left[~settled]
        if not len(left):
            break
    return weights


def _normal(x: Tensor, curved: Tensor) -> Tensor:
    """Xᵀ diag(c) X ÷ n for every row c of `curved`, [m, d, d]; each entry above the diagonal serves for both."""
    normal = x.new_empty(len(curved), x.shape[1], x.shape[1])
    for i in range(x.shape[1]):
        normal[:, i, i:] = normal[:, i:, i] = curved @ (x[:, i:] * x[:, i, None]) / len(x)
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
