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
    norms = one.norm(dim=-1, keepdim=True) * other.norm(dim=-1, keepdim=True)
    cos = ((one * other).sum(-1, keepdim=True) / torch.where(norms > 0, norms, 1.0)).clamp(-1, 1)
    angle = torch.where((cos.abs() >= straight) | (norms == 0), 0.0, cos.arccos())
    sine = torch.where(angle > 0, angle.sin(), 1.0)
    arc = (((1 - t) * angle).sin() * one + (t * angle).sin() * other) / sine
    return torch.where(angle > 0, arc, (1 - t) * one + t * other)


def units(vectors: Tensor) -> tuple[Tensor, Tensor]:
    """Vectors `[T, n]` at length 1, zeros where they are zero, and their lengths `[T, 1]`."""
    norms = vectors.norm(dim=-1, keepdim=True)
    return vectors / torch.where(norms > 0, norms, 1.0), norms


def along(start: Tensor, tangent: Tensor) -> Tensor:
    """The exponential map on the unit sphere: from `start` `[n]` along a tangent `[n]`, as far as that is long."""
    length = tangent.norm()
    reached: Tensor = start * length.cos() + tangent * torch.sinc(length / torch.pi)
    return reached
