"""What of a site an audit compares, and in which order: earlier sites' locks hide later ones."""

from __future__ import annotations

import torch
from torch import Tensor

from redteam.anatomy import ORDER, Linear, Side, Site, Stacks, anatomy_of
from redteam.checkpoint import Checkpoint
from redteam.symmetry import Comparison
from redteam.symmetry.alignment import shared_sides
from redteam.symmetry.canonicals import canonical_side
from redteam.symmetry.fitting import HEADED
from redteam.symmetry.norm_scales import Scales, is_locked, middle

FIRST = ORDER[: ORDER.index("qk")]
"""Kinds that are looked at first, since what they move hides other locks."""
LAST = ("norm",)
"""And those that others hide: a norm's columns can be compared when the heads and neurons that read it are in order."""

_TOKENS = 8  # rows of an embedding to a dimension of the stream: enough to measure a distance by


def in_order(model: Checkpoint) -> tuple[Site, ...]:
    """All sites: those that are everywhere first, then layer by layer in the order in which locks come off.

    Raises:
        BadInput: If the architecture is not known.
    """

    def rank(site: Site) -> tuple[bool, int, int]:
        turn = FIRST.index(site.kind) if site.kind in FIRST else len(FIRST) + (site.kind in LAST)
        return not site.spanning, site.layer, turn

    return tuple(sorted(anatomy_of(model).places, key=rank))


def compared(site: Site, model: Checkpoint, anchor: Checkpoint) -> tuple[Stacks, Stacks]:
    """The stacks of a site in two checkpoints, whose distance means something before and after a fit.

    They are those of `redteam.symmetry.Comparison`, except at a stream, where they are a sample of the embeddings'
    rows, which no other site moves but for a factor, and at a factor, where they are all that tells it.

    Raises:
        BadInput: If a tensor holds NaN or infinity.
    """
    if site.kind == "norm-scale":
        return Scales(model, anchor).stacks(site)
    if site.kind != "residual":
        return Comparison(model, anchor)(site)
    sides = [side for side in shared_sides(site, model, anchor) if not side.shared]

    def sampled(checkpoint: Checkpoint) -> Stacks:
        left = torch.cat([_sample(side, checkpoint, _TOKENS * site.width) for side in sides], -1)
        return Stacks(left, left[:, :, :0])

    here, there = sampled(model), sampled(anchor)
    return Stacks(here.left / _growth(here.left, there.left), here.right), there


def _growth(here: Tensor, there: Tensor) -> Tensor:
    """By how much a stream was multiplied, which the lengths of tokens tell in any basis; 1 where training may have."""
    lengths = there.norm(dim=1)
    factor, spread = middle(here.norm(dim=1) * lengths, lengths.square())
    return torch.where(is_locked(factor, spread, lengths.shape[1]), factor, 1.0)[:, None, None]


def _sample(side: Side, checkpoint: Checkpoint, count: int) -> Tensor:
    """About `count` columns of the stack of one side, [1, n, …]; of an embedding only these become float64."""
    linear = side.linear
    table = isinstance(linear, Linear) and (linear.norm, linear.rows, linear.transposed) == (None, None, False)
    if side.columns and table and len(checkpoint.shape(linear.weight)) == 2:
        rows = checkpoint[linear.weight]
        return rows[:: max(1, len(rows) // count)].to(torch.float64).T[None]
    stack = canonical_side(side, checkpoint, 1)
    return stack[:, :, :: max(1, stack.shape[2] // count)]


def tensors_of(site: Site, model: Checkpoint, anchor: Checkpoint) -> tuple[str, ...]:
    """All tensors that are compared at a site, those of the norms that are read there included."""
    sides = site.sides
    if site.kind in HEADED:
        sides = tuple(side for side in shared_sides(site, model, anchor) if not side.shared) or sides
    names: list[str] = []
    for linear in (side.linear for side in sides):
        norm = () if linear.norm is None else (linear.norm.weight, linear.norm.bias)
        names += [name for name in (*linear.names, *norm) if name is not None]
    return tuple(dict.fromkeys(names))
