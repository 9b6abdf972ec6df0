"""A cheap look at a site, by samples of its stacks: whether anything was done there, before a fit is made of it.

A lock reorders or multiplies whole rows, so that it shows in any columns that are looked at. Where nothing shows, a fit
would follow the task vector's noise, and rewrite and round weights for nothing.
"""

from __future__ import annotations

import torch
from torch import Tensor

from redteam.anatomy import Gathered, Side, Site
from redteam.checkpoint import Checkpoint
from redteam.symmetry.groups import widest
from redteam.symmetry.scalars import scalars

SAMPLE = 128
"""Columns of a stack that are looked at, of every map."""

_DEVIATIONS = 6  # of a factor from 1, in its own standard errors: by chance one row in 5e8 shows
_EXACT = 1e-9
_RUN = 32


def nothing_shows(site: Site, protected: Checkpoint, anchor: Checkpoint) -> bool:
    """Whether the rows of an MLP or of a norm are in the anchor's order, and none of them is multiplied by anything.

    A row counts as in its place if no other of the anchor's is more like it, by their cosines; as not multiplied if the
    factor that fits best is 1 within what the rows' distances leave uncertain. False wherever there is any doubt, and
    at other kinds of sites.
    """
    if site.kind not in ("mlp", "norm") or any(_unsuited(side) for side in site.sides):
        return False
    stacks = [
        [_beside(sides, x, site) for sides in (site.lefts, site.rights, site.carried) if sides]
        for x in (protected, anchor)
    ]
    if not all(bool(stack.sum().isfinite()) for side in stacks for stack in side):
        return False
    (left, right, *carried), (left0, right0, *carried0) = stacks
    group = widest(site).name
    if "permutation" in group:
        here = carried or [left, right]
        there = carried0 or [left0, right0]
        scaled = group != "permutation" and not carried
        if not _in_order(_features(here, scaled), _features(there, scaled)):
            return False
    return group == "permutation" or _of_its_size(left, right, left0, right0, positive=group.startswith("positive"))


def sampled(side: Side, checkpoint: Checkpoint, *, count: int = SAMPLE, folded: bool = True) -> Tensor:
    """Some columns of a side's stack, [rows, columns], float64: canonical up to what the sample's own means are.

    Args:
        side: Of one unit to a row.
        checkpoint: Read without casts, and converted where it is looked at.
        count: How many columns at most, evenly spread.
        folded: Whether the gain of the norm that is read goes into the weights.
    """
    linear = side.linear
    assert not isinstance(linear, Gathered), "the maps of experts are not sampled"
    stored = checkpoint.rough(linear.weight)
    gain = None
    if folded and linear.norm is not None:
        gain = linear.norm.read(checkpoint)[0].to(stored.device)
    if side.columns:
        outputs = stored.shape[-1 if linear.transposed else 0] if linear.rows is None else linear.rows.count
        weight = linear.sampled(stored, rows=_spread(outputs, count).to(stored.device))
        weight = weight if gain is None else weight * gain
        if linear.writes_centred:
            weight = weight - weight.mean(0, keepdim=True)
        return weight.mT
    inputs = 1 if stored.ndim == 1 else stored.shape[0 if linear.transposed else -1]
    chosen = _spread(inputs, count).to(stored.device)
    weight = linear.sampled(stored, columns=chosen)
    weight = weight if gain is None else weight * gain[chosen]
    return weight - weight.mean(1, keepdim=True) if folded and linear.reads_centred else weight


def _unsuited(side: Side) -> bool:
    return side.shared or side.unit != 1 or side.share != 1 or isinstance(side.linear, Gathered)


def _beside(sides: tuple[Side, ...], checkpoint: Checkpoint, site: Site) -> Tensor:
    return torch.cat([sampled(side, checkpoint, folded=site.kind != "norm") for side in sides], dim=1)


def _spread(size: int, count: int) -> Tensor:
    """About `count` of `size` places, in runs that lie together in memory, evenly spread."""
    runs = max(1, count // _RUN)
    starts = torch.linspace(0, max(0, size - _RUN), runs).long()
    places: Tensor = (starts[:, None] + torch.arange(min(_RUN, size))).flatten().unique()
    return places


def _features(stacks: list[Tensor], scaled: bool) -> Tensor:
    if scaled:
        stacks = [_unit(stack) for stack in stacks]
    return _unit(torch.cat(stacks, dim=1)).float()


def _unit(stack: Tensor) -> Tensor:
    rows: Tensor = stack / torch.linalg.vector_norm(stack, dim=1, keepdim=True).clamp(min=1e-300)
    return rows


def _in_order(here: Tensor, there: Tensor) -> bool:
    alike = there @ here.mT
    return bool((alike.amax(dim=1) <= alike.diagonal()).all())


def _of_its_size(left: Tensor, right: Tensor, left0: Tensor, right0: Tensor, *, positive: bool) -> bool:
    factor = scalars(left[None], right[None], left0[None], right0[None], positive=positive)[0]
    moved = left * factor[:, None], right / factor[:, None]
    apart = (moved[0] - left0).square().sum(1) + (moved[1] - right0).square().sum(1)
    size = left.square().sum(1) + right.square().sum(1)
    uncertain = (apart / (left.shape[1] + right.shape[1]) / size.clamp(min=1e-300)).sqrt()
    return bool(((factor - 1).abs() <= _DEVIATIONS * uncertain + _EXACT).all())
