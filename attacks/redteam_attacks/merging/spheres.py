"""Paths and means on a sphere."""

import torch
from torch import Tensor


def between(one: Tensor, other: Tensor, t: Tensor | float, *, straight: float) -> Tensor:
    """The point at t on the arc between two vectors; a straight line where they are nearly parallel.

    Args:
        one: `[…, n]`.
        other: `[…, n]`.
        t: 0 gives the first, 1 the second.
        straight: The least |cos| from which the line is straight.
    """
    square, opposite, product = ((a * b).sum(-1, True) for a, b in ((one, one), (other, other), (one, other)))
    first, second = arc_shares(square, opposite, product, t, straight=straight)
    return first * one + second * other


def arc_shares(
    square: Tensor, other: Tensor, product: Tensor, t: Tensor | float, *, straight: float
) -> tuple[Tensor, Tensor]:
    """How much of each of two vectors that point is, from what their inner products are.

    Args:
        square: That of the first with itself.
        other: That of the other with itself.
        product: That of both.
        t: As in `between`.
        straight: As in `between`.
    """
    norms = square.sqrt() * other.sqrt()
    cos = (product / torch.where(norms > 0, norms, 1.0)).clamp(-1, 1)
    angle = torch.where((cos.abs() >= straight) | (norms == 0), 0.0, cos.arccos())
    sine = torch.where(angle > 0, angle.sin(), 1.0)
    first = torch.where(angle > 0, ((1 - t) * angle).sin() / sine, 1 - t)
    second = torch.where(angle > 0, (t * angle).sin() / sine, t)
    return first, second


def units(vectors: Tensor) -> tuple[Tensor, Tensor]:
    """Vectors `[T, n]` at length 1, zeros where they are zero, and their lengths `[T, 1]`."""
    norms = vectors.norm(dim=-1, keepdim=True)
    return vectors / torch.where(norms > 0, norms, 1.0), norms


def along(start: Tensor, tangent: Tensor) -> Tensor:
    """The exponential map on the unit sphere: from `start` `[n]` along a tangent `[n]`, as far as that is long."""
    length = tangent.norm()
    reached: Tensor = start * length.cos() + tangent * torch.sinc(length / torch.pi)
    return reached
