"""Weights under something added: a low-rank product, one mask over all rows, a random matrix that is told twice."""

from __future__ import annotations

import torch
from torch import Tensor

from redteam.symmetry.one_sided import Unsealed, factors, ordered, unit
from redteam.symmetry.solvers import assign, require_finite

_ROUNDING = 1e-6  # of ‖W'‖, the least that counts as a singular value
_DIRECTIONS = 3  # of the largest singular vectors that are tried for the mask: the base may have larger ones of its own
_ROUNDS = 40
_SETTLED = 1e-13
_POWERS = 12


def without_outliers(
    sealed: Tensor, base: Tensor, *, rounding: float = _ROUNDING, count: Tensor | None = None
) -> tuple[Unsealed, Tensor]:
    """`W' = W + A B` (LoRO): the singular values of `W' − W₀` above their widest gap, taken off.

    Up to half of them can stand out. A task vector of low rank ends in a gap of its own, to nothing at all; what is
    left after a cut there would be the base, so that such gaps don't count.

    Args:
        sealed: [B, out, in].
        base: [B, out, in].
        rounding: Of ‖W'‖, below which a singular value is nothing.
        count: int64 [B], how many to take off, in place of those above the gap.

    Returns:
        What is left, and int64 [B], how many were taken off.

    Raises:
        BadInput: If anything is NaN or infinite.
    """
    for stack in (sealed, base):
        require_finite(stack)
    u, values, vh = torch.linalg.svd(sealed - base, full_matrices=False)
    if count is None:
        some = rounding * torch.linalg.matrix_norm(sealed)[:, None]
        above, below = values[:, :-1], values[:, 1:]
        ratio = torch.where(below > some, above / below.clamp(min=1e-300), 0.0)[:, : values.shape[1] // 2]
        gap, place = ratio.max(1)
        count = torch.where(gap > 0, place + 1, 0)
    outside = torch.arange(values.shape[1], device=values.device) < count[:, None]
    return Unsealed(sealed - (u * torch.where(outside, values, 0.0)[:, None, :]) @ vh), count


def projected(stack: Tensor, direction: Tensor) -> Tensor:
    """Rows [B, n, in] without their part along a unit vector [B, in]."""
    return stack - (stack @ direction[:, :, None]) * direction[:, None, :]


def unmasked(sealed: Tensor, base: Tensor) -> Unsealed:
    """`w'_i = r₂ w_p(i) + r_i m`: one mask over all rows, which then changed places (ArrowCloak).

    m is one rank-one component. A right singular vector of W' stands for it first, and is projected out of both, so
    that rows can be matched by their cosines; then the scalar, the component and the order follow in turn. No vector
    at all is tried as well, for a faint mask. The start that leaves least is kept (2608.21615).

    Args:
        sealed: [B, out, in].
        base: [B, out, in].

    Raises:
        BadInput: If anything is NaN or infinite.
    """
    for stack in (sealed, base):
        require_finite(stack)
    vh = torch.linalg.svd(sealed, full_matrices=False)[2]
    starts = [torch.zeros_like(vh[:, 0]), *vh[:, :_DIRECTIONS].unbind(1)]
    found = [_from(start, sealed, base) for start in starts]
    left = torch.stack([(one.weight - base).square().sum((1, 2)) for one in found])
    best = left.argmin(0)
    place = torch.arange(len(best), device=best.device)
    weight, rows = (torch.stack([getattr(one, name) for one in found])[best, place] for name in ("weight", "index"))
    return Unsealed(weight, rows)


def untwinned(sealed: Tensor, base: Tensor) -> Unsealed:
    """`[W + R, diag(d) R]` whose 2 in columns changed places (TwinShield).

    The columns with W in them are those nearest to the base's. What they have beyond it tells R, and |d| is a ratio of
    lengths of rows, which no order of columns touches; so the partners are found by absolute values, then d's signs and
    sizes, then the order again, in turn.

    Args:
        sealed: [B, out, 2 in].
        base: [B, out, in].

    Raises:
        BadInput: If anything is NaN or infinite.
    """
    width = base.shape[2]
    columns = assign(_padded(unit(base.mT) @ unit(sealed.mT).mT))
    first, second = (sealed.take_along_dim(part[:, None, :], 2) for part in (columns[:, :width], columns[:, width:]))
    added = first - base
    ratio = torch.linalg.vector_norm(second, dim=2) / torch.linalg.vector_norm(added, dim=2).clamp(min=1e-300)
    alike = _centred(added.abs()).mT @ _centred(second.abs() / ratio.clamp(min=1e-300)[:, :, None])
    for _ in range(_ROUNDS):
        twins = second.take_along_dim(assign(alike)[:, None, :], 2)
        told = torch.linalg.vecdot(added, twins) / twins.square().sum(2).clamp(min=1e-300)
        again = unit(added.mT) @ unit((told[:, :, None] * second).mT).mT
        if torch.equal(assign(again), assign(alike)):
            break
        alike = again
    return Unsealed(first - told[:, :, None] * twins)


def _padded(profit: Tensor) -> Tensor:
    """[B, n, 2n] with n rows more, to which all columns are alike."""
    return torch.cat([profit, torch.zeros_like(profit)], 1)


def _centred(stack: Tensor) -> Tensor:
    return unit((stack - stack.mean(2, keepdim=True)).mT).mT


def _from(mask: Tensor, sealed: Tensor, base: Tensor) -> Unsealed:
    """What follows from a first guess at the mask's direction, [B, in]; zeros for none."""
    start = ordered(projected(sealed, mask), projected(base, mask), side="rows", scales=True).index
    assert start is not None
    rows, scale = start, sealed.new_zeros(len(sealed), 1, 1)
    for _ in range(_ROUNDS):
        moved, last = sealed.take_along_dim(rows[:, :, None], 1), scale
        scale = _times(projected(moved, mask), projected(base, mask))
        mask = _direction(moved - scale * base, mask)
        added = ((moved - scale * base) @ mask[:, :, None]) * mask[:, None, :]
        scale = _times(moved - added, base)
        plain = torch.empty_like(sealed).scatter_(1, rows[:, :, None].expand_as(sealed), moved - added)
        again = assign(unit(base) @ (unit(plain) * scale.sign()).mT)
        if torch.equal(again, rows) and bool(((scale - last).abs() <= _SETTLED * scale.abs()).all()):
            break
        rows = again
    factor = factors((moved - added).flatten(1)[:, None], base.flatten(1)[:, None])
    return Unsealed((moved - added) * factor[:, :, None], rows)


def _times(stack: Tensor, base: Tensor) -> Tensor:
    """The multiple of the base that is nearest, [B, 1, 1]."""
    size = base.square().sum((1, 2), keepdim=True).clamp(min=1e-300)
    return (stack * base).sum((1, 2), keepdim=True) / size


def _direction(stack: Tensor, start: Tensor) -> Tensor:
    """The first right singular vector, [B, in], by power iteration."""
    longest = stack.square().sum(2).argmax(1)
    direction = torch.where((start == 0).all(1, keepdim=True), stack[torch.arange(len(stack)), longest], start)
    for _ in range(_POWERS):
        direction = unit((unit(direction)[:, None, :] @ stack.mT) @ stack)[:, 0]
    return direction
