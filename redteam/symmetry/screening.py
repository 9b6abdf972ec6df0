"""A cheap look at a site, by samples of its stacks: whether anything was done there, before a fit is made of it.

A lock reorders or multiplies whole rows, so that it shows in any columns that are looked at. Where nothing shows, a fit
would follow the task vector's noise, and rewrite and round weights for nothing.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from redteam.anatomy import Adapted, Gathered, Side, Site
from redteam.anatomy.linear import read_float64
from redteam.checkpoint import Checkpoint

SAMPLE = 128
"""Columns of a stack that are looked at, of every map."""

_DEVIATIONS = 6  # of a factor from 1, in its own standard errors: by chance one row in 5e8 shows
_EXACT = 1e-9
_SAME = 0.9  # a cosine above which two neurons stand in for each other
_ENOUGH = 16  # columns from which a factor is told from noise
_RUN = 32  # columns that lie together


def shown_order(site: Site, protected: Checkpoint, anchor: Checkpoint) -> Tensor | None:
    """The order of an MLP's neurons that sampled columns show beyond doubt, int64 [n]; None where there is any.

    It is the anchor's own if all neurons are so alike to themselves, in each of their maps, that only twins could have
    changed places. Otherwise every neuron's likest, by cosines, must be another one, and by a margin that sampling does
    not bridge by chance.

    Raises:
        BadInput: If NaN or infinity is among what is looked at.
    """
    if site.kind != "mlp" or site.heads > 1 or any(_unsuited(side) for side in site.sides):
        return None
    kinds = [sides for sides in (site.carried, site.lefts, site.rights) if sides]
    here, there = ([_unit(_beside(sides, x, site)) for sides in kinds] for x in (protected, anchor))
    own = torch.arange(site.width, device=here[0].device)
    if all(bool((torch.linalg.vecdot(x, y).abs() >= _SAME).all()) for x, y in zip(here, there, strict=True)):
        return own
    if site.carried:  # no scale or sign touches a gate
        here, there = here[:1], there[:1]
    first, second = (_unit(torch.cat(stacks, dim=1)).float() for stacks in (here, there))
    alike = second @ first.mT
    best, order = alike.max(dim=1)
    if not bool((order.sort().values == own).all()):
        return None
    rest = alike.scatter_(1, order[:, None], -torch.inf).amax(dim=1)
    return order if bool((best - rest >= _DEVIATIONS / math.sqrt(first.shape[1])).all()) else None


def of_its_size(site: Site, protected: Checkpoint, anchor: Checkpoint) -> bool:
    """Whether sampled columns show no factor on any row of an MLP or a norm; False at other kinds of sites.

    A row counts as not multiplied if on neither side the factor that fits best is another than 1 by more than what the
    rows' distances leave uncertain.

    Raises:
        BadInput: If NaN or infinity is among what is looked at.
    """
    if site.kind not in ("mlp", "norm") or site.heads > 1 or any(_unsuited(side) for side in site.sides):
        return False
    looked = False
    for sides in (site.lefts, site.rights):
        there_too = tuple(side for side in sides if in_both(side, protected, anchor))
        if not there_too:
            continue
        here, there = (_beside(there_too, x, site) for x in (protected, anchor))
        if here.shape[1] >= _ENOUGH:  # a gain is one number, of which nobody can tell what training did to it
            looked = True
            size = there.square().sum(1).clamp(min=1e-300)  # training added to these, and not the other way round
            factor = (here * there).sum(1) / size
            uncertain = ((here - there * factor[:, None]).square().mean(1) / size).sqrt()
            if not bool(((factor - 1).abs() <= _DEVIATIONS * uncertain + _EXACT).all()):
                return False
    return looked


def in_both(side: Side, checkpoint: Checkpoint, anchor: Checkpoint) -> bool:
    """Whether two checkpoints have a side's tensors in one shape, unlike the heads of different tasks."""
    return all(name in anchor and anchor.shape(name) == checkpoint.shape(name) for name in side.linear.names)


def sampled(side: Side, checkpoint: Checkpoint, *, count: int = SAMPLE, folded: bool = True) -> Tensor:
    """Some columns of a side's stack, [rows, columns], float64: canonical up to what the sample's own means are.

    Args:
        side: Of one unit to a row.
        checkpoint: Read without casts, and converted where it is looked at.
        count: How many columns at most, evenly spread.
        folded: Whether the gain of the norm that is read goes into the weights.

    Raises:
        BadInput: If NaN or infinity is among what is looked at, or in the bias.
    """
    linear = side.linear.linear if isinstance(side.linear, Adapted) else side.linear  # a lock shows in any columns
    assert not isinstance(linear, Gathered), "the maps of experts are not sampled"
    if linear.bias is not None:
        read_float64(checkpoint, linear.bias)
    stored = checkpoint.rough(linear.weight)
    gain = None
    if folded and linear.norm is not None:
        gain = linear.norm.read(checkpoint)[0].to(stored.device)
    if side.columns:
        outputs = linear.outputs(tuple(stored.shape))
        weight = linear.sampled(stored, rows=_spread(outputs, count).to(stored.device))
        weight = weight if gain is None else weight * gain
        if linear.writes_centred:
            weight = weight - weight.mean(0, keepdim=True)
        return weight.mT
    chosen = _spread(linear.inputs(tuple(stored.shape)), count).to(stored.device)
    weight = linear.sampled(stored, columns=chosen)
    weight = weight if gain is None else weight * gain[chosen]
    if linear.writes_centred:
        weight = weight - weight.mean(0, keepdim=True)
    return weight - weight.mean(1, keepdim=True) if folded and linear.reads_centred else weight


def can_be_sampled(side: Side) -> bool:
    """Whether some columns of its stack can be read without the rest."""
    return side.unit == 1 and side.share == 1 and not isinstance(side.linear, Gathered)


def _unsuited(side: Side) -> bool:
    return side.shared or not can_be_sampled(side)


def _beside(sides: tuple[Side, ...], checkpoint: Checkpoint, site: Site) -> Tensor:
    return torch.cat([sampled(side, checkpoint, folded=site.kind != "norm") for side in sides], dim=1)


def _spread(size: int, count: int) -> Tensor:
    """About `count` of `size` places, in runs that lie together in memory, evenly spread."""
    runs = max(1, count // _RUN)
    starts = torch.linspace(0, max(0, size - _RUN), runs).long()
    places: Tensor = (starts[:, None] + torch.arange(min(_RUN, size))).flatten().unique()
    return places


def _unit(stack: Tensor) -> Tensor:
    rows: Tensor = stack / torch.linalg.vector_norm(stack, dim=1, keepdim=True).clamp(min=1e-300)
    return rows
