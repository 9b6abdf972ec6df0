"""Untied alignment: every matrix of a site brought to the anchor's by itself, by least squares.

The published anchor alignment (AGA, arXiv 2606.30360): `W ← P W` with `P = W₀ W⁺` on the rows of a head, `W ← W P` with
`P = W⁺ W₀` on its columns of the output. `P W = W₀ Π`, with Π the projection onto W's row space, which no gauge
changes: so any invertible lock comes off, and with it goes the part of the task vector inside that row space. Query and
key (value and output) no longer undo one another exactly, so that the function stays only roughly.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import replace

import torch
from torch import Tensor

from redteam.anatomy import Affine, Side, Site
from redteam.checkpoint import Checkpoint
from redteam.symmetry.fitting import require_same, sites_by_kind
from redteam.symmetry.matrix_groups import GeneralLinear
from redteam.symmetry.shifts import SiteMaps, SiteRewrite

_RANK = 1e-10  # singular values below this share of the largest count as zero

Pair = tuple[Tensor, Tensor]


def align_untied(protected: Checkpoint, anchor: Checkpoint, kinds: Iterable[str]) -> Checkpoint:
    """Both maps of every site of some kinds, each aligned to the anchor's alone; lazy.

    The factor is found on the weights and applied to weights and bias, as a lock is.

    Args:
        protected: What a lock may have moved.
        anchor: The public base, or another relative.
        kinds: Kinds of sites whose symmetry is a matrix (`"qk"`, `"vo"`).

    Raises:
        BadInput: If the architecture is not known, the anchor has other tensors, or, when a tensor is read, if one
            holds NaN or infinity.
        IllegalGauge: If no matrix is legal at a kind.
    """
    for sites in sites_by_kind(protected, kinds, GeneralLinear()):
        require_same(sites, protected, anchor)
        protected = protected.transform([SiteRewrite(site, _multiplied) for site in sites], _factors(protected, anchor))
    return protected


def least_squares(moving: Tensor, target: Tensor) -> Tensor:
    """`target moving⁺`, [B, n, n]: the P of least norm that minimises `‖P moving − target‖`, per head.

    Args:
        moving: [B, n, k].
        target: [B, n, k].
    """
    inverse: Tensor = torch.linalg.pinv(moving, rtol=_RANK)
    return target @ inverse


def _factors(protected: Checkpoint, anchor: Checkpoint) -> Callable[[SiteRewrite], Pair]:
    def fit(place: SiteRewrite) -> Pair:
        site = place.site
        ours, theirs = site.read(protected), site.read(anchor)
        left, right = (
            least_squares(_weights(side, moving, site.heads), _weights(side, target, site.heads))
            for side, moving, target in zip(site.pair, ours, theirs, strict=True)
        )
        return left, right

    return fit


def _multiplied(site: Site, parts: SiteMaps, factors: Pair) -> SiteMaps:
    left, right = (
        side.unstack(factor @ side.stack(affine, site.heads), affine)
        for side, affine, factor in zip(site.pair, (parts.left, parts.right), factors, strict=True)
    )
    return replace(parts, left=left, right=right)


def _weights(side: Side, affine: Affine, heads: int) -> Tensor:
    return side.stack(Affine(affine.weight, None), heads)
