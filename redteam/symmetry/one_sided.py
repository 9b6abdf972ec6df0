"""Fits on one side of a single weight: a scalar, an order of rows or columns with or without scales, a rotation.

A gauge changes two maps at once and the function stays. What is published here does not run alone (an enclave or the
user holds the rest), so that each tensor was changed by itself and only the base says how. All are float64, batched,
and give the weight W that leaves the least of `W − W₀` among those that the form allows.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from redteam.symmetry.algebra import closest_rotation
from redteam.symmetry.solvers import assign, require_finite

Side = Literal["columns", "rows"]
_ALIKE = 0.5  # cos² from which a vector is more like the base's than unlike it


@dataclass(frozen=True, eq=False)
class Unsealed:
    """A weight as a form of sealing would have it undone.

    Attributes:
        weight: float64 [B, out, in].
        index: int64 [B, n], which row (column) of the sealed weight each row (column) came from; None where none moved.
    """

    weight: Tensor
    index: Tensor | None = None


def scaled(sealed: Tensor, base: Tensor) -> Unsealed:
    """`W' = s W`: one number to a tensor, of either sign (TSQP, SOTER).

    Args:
        sealed: [B, out, in].
        base: [B, out, in].
    """
    factor = factors(sealed.flatten(1)[:, None], base.flatten(1)[:, None])
    return Unsealed(sealed * factor[:, :, None])


def ordered(sealed: Tensor, base: Tensor, *, side: Side, scales: bool = False) -> Unsealed:
    """Columns (rows) that changed places, and perhaps were multiplied each by a number: `W' = W P diag(s)`.

    By cosines, on which no scale has a bearing, and one linear assignment; then least squares.

    Args:
        sealed: [B, out, in].
        base: [B, out, in].
        side: What changed places.
        scales: Whether it was multiplied as well, by numbers of either sign.

    Raises:
        BadInput: If anything is NaN or infinite.
    """
    if side == "columns":
        upright = ordered(sealed.mT, base.mT, side="rows", scales=scales)
        return Unsealed(upright.weight.mT, upright.index)
    alike = unit(base) @ unit(sealed).mT
    rows = assign(alike.abs() if scales else alike)
    moved = sealed.take_along_dim(rows[:, :, None], 1)
    if not scales:
        return Unsealed(moved, rows)
    return Unsealed(moved * factors(moved, base)[:, :, None], rows)


def turned(sealed: Tensor, base: Tensor, *, side: Side) -> Unsealed:
    """`W' = W Q` (`Q W` for rows) with Q orthogonal: Procrustes on one side.

    Q is known as far as W₀'s rows (columns) reach: where W is wider than high, all of W that lies outside of them is
    turned into them, and what the task changed there is lost. Where it is square, half of a random task vector is.

    Args:
        sealed: [B, out, in].
        base: [B, out, in].
        side: `"columns"` for a rotation that mixes columns.

    Raises:
        BadInput: If anything is NaN or infinite.
    """
    if side == "rows":
        return Unsealed(turned(sealed.mT, base.mT, side="columns").weight.mT)
    for stack in (sealed, base):
        require_finite(stack)
    if sealed.shape[1] >= sealed.shape[2]:
        return Unsealed(sealed @ closest_rotation(sealed.mT @ base))
    _, here = torch.linalg.qr(sealed.mT)
    there, kept = torch.linalg.qr(base.mT)
    return Unsealed(here.mT @ closest_rotation(here @ kept.mT) @ there.mT)


def unit(stack: Tensor) -> Tensor:
    """Its rows divided by their lengths; those of zeros stay."""
    rows: Tensor = stack / torch.linalg.vector_norm(stack, dim=-1, keepdim=True).clamp(min=1e-300)
    return rows


def factors(sealed: Tensor, base: Tensor) -> Tensor:
    """By what to multiply each row [B, n, k] to take a scale off, [B, n].

    Training added to the base's rows and not the other way round, so that ‖w₀‖² ÷ ⟨w', w₀⟩ is the scale; where a row
    is nothing like the base's that would blow it up, and the factor is the one that leaves least.
    """
    common = torch.linalg.vecdot(sealed, base)
    own, other = (x.square().sum(-1) for x in (sealed, base))
    alike = common.square() >= _ALIKE * own * other
    least = common / own.clamp(min=1e-300)
    return torch.where(alike & (common != 0), other / torch.where(common == 0, 1.0, common), least)
