"""Shapes brought back: doubled neurons folded into one, heads cut to the rank that their product has.

Both are exact, and both look at what no gauge and no additive freedom of the lock can change.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from redteam.anatomy import Site
from redteam.checkpoint import Checkpoint
from redteam.errors import BadInput
from redteam.symmetry.balancing import factored
from redteam.symmetry.reshaping import Maps, reshaped
from redteam.symmetry.shifts import SiteMaps, settled


def fold_neurons(checkpoint: Checkpoint, neurons: int, *, tolerance: float) -> Checkpoint:
    """MLPs of fewer neurons that compute the same: of every surplus neuron's output its twin takes over the weights.

    Neurons are twins if they read the same, and a neuron whose output has no weight goes for nothing.

    Args:
        checkpoint: With MLPs that are too wide.
        neurons: How many are to be left.
        tolerance: How far two rows may lie apart and still be twins, as a share of their length.

    Raises:
        BadInput: If there are not enough twins, or as `redteam.symmetry.reshaping.reshaped`.
    """

    def change(site: Site, maps: Maps) -> Maps:
        parts = settled(site, SiteMaps.read(site, checkpoint))
        stacks = site.stacked(parts.left, parts.right)
        kept, right = _folded(stacks.left[0], stacks.right[0], site.width - neurons, tolerance, site.label)
        return site.left.unstack(stacks.left[:, kept], parts.left), site.pair[1].unstack(right[kept][None], parts.right)

    return reshaped(checkpoint, ("mlp",), change, neurons=neurons)


def narrow_heads(checkpoint: Checkpoint, width: int, *, tolerance: float) -> Checkpoint:
    """Heads of fewer dimensions that compute the same: both stacks factored anew from their product.

    `leftᵀ right = U S Vᵀ`, of which the first `width` singular values are kept, half of each on either side. Queries
    shrink by √(width / before), since attention divides by the root of the head's width.

    Args:
        checkpoint: With heads that are too wide.
        width: How many dimensions are to be left.
        tolerance: The largest singular value that may be dropped, as a share of the largest.

    Raises:
        BadInput: If a head's product has a higher rank, or as `redteam.symmetry.reshaping.reshaped`.
    """

    def change(site: Site, maps: Maps) -> Maps:
        parts = settled(site, SiteMaps.read(site, checkpoint))
        stacks = site.stacked(parts.left, parts.right)
        left, right, rest = _truncated(stacks.left, stacks.right, width)
        if rest > tolerance:
            raise BadInput(
                f"The heads at {site.label} have more than {width} dimensions that count (the next one {rest:.2g} of "
                "the largest); expected padding, so leave this attack out."
            )
        if site.kind == "qk":
            left = left * math.sqrt(width / site.width)
        return site.left.unstack(left, parts.left), site.pair[1].unstack(right, parts.right)

    return reshaped(checkpoint, ("qk", "vo"), change, head_width=width)


def _folded(left: Tensor, right: Tensor, surplus: int, tolerance: float, label: str) -> tuple[Tensor, Tensor]:
    """The rows to keep, in order, and the right stack [n, c] with the others' weights added to their twins'."""
    sizes = torch.linalg.vector_norm(left, dim=1).clamp(min=torch.finfo(left.dtype).tiny)
    apart = torch.cdist(left, left, compute_mode="donot_use_mm_for_euclid_dist") / torch.maximum(sizes[:, None], sizes)
    later = torch.ones_like(apart, dtype=torch.bool).triu()  # twins are looked for among earlier rows
    nearest, twin = apart.masked_fill(later, torch.inf).min(dim=1)
    weight = torch.linalg.vector_norm(right, dim=1)
    silent = weight / weight.max().clamp(min=torch.finfo(left.dtype).tiny)
    score = torch.minimum(nearest, silent)
    gone = score.argsort(stable=True)[:surplus]
    if surplus and float(score[gone].max()) > tolerance:
        found = int((score <= tolerance).sum())
        raise BadInput(
            f"{found} of {surplus} surplus neurons at {label} have a twin or no output; expected all of them, so leave "
            "this attack out."
        )
    right = right.clone()
    for row in gone.sort(descending=True).values.tolist():  # so that a twin's own twin gets both
        if nearest[row] <= tolerance:
            right[twin[row]] += right[row]
    kept = torch.ones(len(left), dtype=torch.bool)
    kept[gone] = False
    return kept.nonzero()[:, 0], right


def _truncated(left: Tensor, right: Tensor, width: int) -> tuple[Tensor, Tensor, float]:
    """Balanced factors [B, width, a], [B, width, c] of `leftᵀ right`, and the largest share that was cut off."""
    left, right, sizes = factored(left, right)
    rest = torch.nn.functional.pad(sizes, (0, 1))[:, width:].amax(-1) / sizes[:, 0].clamp(
        min=torch.finfo(sizes.dtype).tiny
    )
    return left[:, :width], right[:, :width], float(rest.max())
