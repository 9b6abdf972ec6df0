"""Shapes brought back: MLPs without the neurons that are too many, heads cut to the rank that their product has.

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
from redteam.symmetry.reshaping import Maps, reshaped, stacked, unstacked, with_activation
from redteam.symmetry.shifts import SiteMaps, settled
from redteam_attacks.redundancy import without_redundancy


def fold_neurons(checkpoint: Checkpoint, neurons: int, *, tolerance: float) -> Checkpoint:
    """MLPs of fewer neurons that compute the same (`redteam_attacks.redundancy`).

    Args:
        checkpoint: With MLPs that are too wide.
        neurons: How many are to be left.
        tolerance: How far two rows may lie apart and still be the same, as a share of their length.

    Raises:
        BadInput: If too many neurons are left, or as `redteam.symmetry.reshaping.reshaped`.
    """
    checkpoint = with_activation(checkpoint)

    def change(site: Site, maps: Maps) -> Maps:
        parts = settled(site, SiteMaps.read(site, checkpoint))
        maps = (parts.left, parts.right, *parts.carried)
        return unstacked(site, maps, without_redundancy(site, stacked(site, maps), neurons, tolerance=tolerance))

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


def _truncated(left: Tensor, right: Tensor, width: int) -> tuple[Tensor, Tensor, float]:
    """Balanced factors [B, width, a], [B, width, c] of `leftᵀ right`, and the largest share that was cut off."""
    left, right, sizes = factored(left, right)
    rest = torch.nn.functional.pad(sizes, (0, 1))[:, width:].amax(-1) / sizes[:, 0].clamp(
        min=torch.finfo(sizes.dtype).tiny
    )
    return left[:, :width], right[:, :width], float(rest.max())
