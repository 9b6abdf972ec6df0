"""Canonical stacks: those of a site without what could be added to them for free (`redteam.symmetry.shifts`)."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping

import torch
from torch import Tensor

from redteam.anatomy import Affine, AnyLinear, Side, Site, Stacks

_VANISHING = 1e-6  # a LayerNorm gain below this share of the largest leaves no usable 1/γ


def canonical(site: Site, checkpoint: Mapping[str, Tensor], sides: Collection[Side] | None = None) -> Stacks:
    """The stacks of a site without their additive freedoms, float64; gauges act on them as on the plain ones.

    γ and β are folded into what reads them, the mean of each read row and of each written column is taken off, and free
    biases are left out. Where γ and β are themselves the site, they stay as they are, and what reads them loses its
    part along 1/γ. Two checkpoints that differ by shifts alone have the same canonical stacks.

    Args:
        site: Whose stacks.
        checkpoint: Where they lie.
        sides: Which of its sides to stack, all by default; at least one that G multiplies.

    Raises:
        BadInput: If a tensor holds NaN or infinity.
    """
    take_off = _without_null if site.kind == "norm" else without_freedom

    def stack(some: Iterable[Side]) -> list[Tensor]:
        kept = (side for side in some if sides is None or side in sides)
        return [
            side.stack(take_off(side.linear, side.linear.read(checkpoint), checkpoint), site.heads) for side in kept
        ]

    lefts, rights, carried = stack(site.lefts), stack(site.rights), stack(site.carried)
    none = lefts[0][:, :, :0]
    return Stacks(_beside(lefts), _beside(rights or [none]), _beside(carried) if carried else None)


def canonical_side(side: Side, checkpoint: Mapping[str, Tensor], heads: int) -> Tensor:
    """The stack of one side alone, [B, n, …], in the same form; raises as `canonical`."""
    return side.stack(without_freedom(side.linear, side.linear.read(checkpoint), checkpoint), heads)


def without_freedom(linear: AnyLinear, affine: Affine, checkpoint: Mapping[str, Tensor]) -> Affine:
    """A map with its norm folded in, and without its additive freedoms."""
    weight, bias = affine.weight, affine.bias
    if linear.norm is not None:
        gain, offset = linear.norm.read(checkpoint)
        if linear.norm.bias is not None:
            bias = weight @ offset if bias is None else bias + weight @ offset
        weight = weight * gain
        if linear.reads_centred:
            weight = weight - weight.mean(1, keepdim=True)
    if linear.writes_centred:
        weight = weight - weight.mean(0, keepdim=True)
    return Affine(weight, None if linear.bias_free or bias is None else bias * linear.bound(bias))


def null_direction(linear: AnyLinear, checkpoint: Mapping[str, Tensor]) -> Tensor | None:
    """`(1/γ, −Σ β/γ)`, [in + 1]: what a row of weights and its bias may move along; None if there is no such thing."""
    if linear.norm is None or not linear.reads_centred:
        return None
    gain, offset = linear.norm.read(checkpoint)
    if bool((gain.abs() <= _VANISHING * gain.abs().max()).any()):
        return None
    return torch.cat([1 / gain, -(offset / gain).sum()[None]])


def _beside(stacks: list[Tensor]) -> Tensor:
    return stacks[0] if len(stacks) == 1 else torch.cat(stacks, dim=-1)


def _without_null(linear: AnyLinear, affine: Affine, checkpoint: Mapping[str, Tensor]) -> Affine:
    null = null_direction(linear, checkpoint)
    if null is None:
        return affine
    along = (affine.weight / null[:-1]).mean(1, keepdim=True)
    return Affine(affine.weight - along * null[:-1], affine.bias)
