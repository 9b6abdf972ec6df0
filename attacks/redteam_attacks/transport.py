"""Optimal transport between the rows of two sites: a permutation (exact), or a soft map (entropic)."""

from __future__ import annotations

import warnings
from collections.abc import Iterable
from dataclasses import dataclass, replace
from typing import Any, ClassVar, Literal

import numpy as np
import torch
from torch import Tensor

from redteam.anatomy import Site, Stacks
from redteam.checkpoint import Checkpoint
from redteam.symmetry.canonicals import canonical
from redteam.symmetry.fitting import require_same, sites_by_kind
from redteam.symmetry.gauges import MonomialGauge
from redteam.symmetry.permutations import Permutation
from redteam.symmetry.shifts import SiteMaps, SiteRewrite, toward
from redteam.symmetry.solvers import assign, carried_cosines, cosines, require_finite

Method = Literal["emd", "sinkhorn"]
_ITERATIONS = 1000
_TOLERANCE = 1e-9


@dataclass(frozen=True)
class Transport:
    """Permutations, fitted by optimal transport with uniform marginals (a `Group`).

    Attributes:
        method: `"emd"` is exact, and then no other than linear assignment; `"sinkhorn"` is entropic.
        reg: Weight of the entropy, in units of the mean cost.
    """

    method: Method = "emd"
    reg: float = 0.05
    name: ClassVar[str] = "permutation"

    def sample(self, batch: int, width: int, generator: np.random.Generator) -> MonomialGauge:
        """Uniform permutations."""
        return Permutation().sample(batch, width, generator)

    def fit(self, moving: Stacks, target: Stacks) -> MonomialGauge:
        """The permutation closest to the plan.

        Raises:
            BadInput: If a stack holds NaN or infinity.
        """
        return MonomialGauge(assign(self.plan(moving, target)))

    def plan(self, moving: Stacks, target: Stacks) -> Tensor:
        """[B, n, n], target rows × moving rows; rows and columns sum to 1 (sinkhorn: rows exactly, columns nearly).

        The cost is `‖x − y‖²` of row-normalised left plus that of row-normalised right stacks (and of what is carried),
        on which no scale of rows has a bearing.

        Raises:
            BadInput: If a stack holds NaN or infinity.
        """
        ot = _pot()
        rows = 4.0 if moving.carried is None else 6.0
        cost = (rows - 2 * (cosines(moving, target) + carried_cosines(moving, target))).clamp(min=0)
        require_finite(cost)
        tables = cost.cpu().numpy()
        n = tables.shape[-1]
        uniform = np.full(n, 1 / n)
        if self.method == "emd":
            plans = [ot.emd(uniform, uniform, table) for table in tables]
        else:
            plans = [
                ot.sinkhorn(
                    uniform,
                    uniform,
                    table,
                    self.reg * max(float(table.mean()), 1e-300),
                    numItermax=_ITERATIONS,
                    stopThr=_TOLERANCE,
                    warn=False,
                )
                for table in tables
            ]
        plan = torch.from_numpy(np.stack(plans)).to(cost)
        return plan / plan.sum(-1, keepdim=True)


def _pot() -> Any:
    """POT, without the warnings about its own source that its first import gives."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        import ot
    return ot


def map_softly(protected: Checkpoint, anchor: Checkpoint, kinds: Iterable[str], transport: Transport) -> Checkpoint:
    """Every row of both stacks replaced by its barycentre under the plan; lazy.

    `left ← T left, right ← T right` (Singh and Jaggi, Model Fusion via Optimal Transport, arXiv 1910.05653, equation 5
    with uniform marginals). T is no gauge unless it is a permutation, so that the function stays only roughly.

    Args:
        protected: What a lock may have moved.
        anchor: The public base, or another relative.
        kinds: Kinds of sites.
        transport: Gives the plan.

    Raises:
        BadInput: If the architecture is not known, the anchor has other tensors, or, when a tensor is read, if one
            holds NaN or infinity.
        IllegalGauge: If no matrix is legal at a kind.
    """
    for sites in sites_by_kind(protected, kinds, transport):
        require_same(sites, protected, anchor)
        protected = _mapped(protected, anchor, sites, transport)
    return protected


def _mapped(protected: Checkpoint, anchor: Checkpoint, sites: tuple[Site, ...], transport: Transport) -> Checkpoint:
    def fit(place: SiteRewrite) -> Tensor:
        return transport.plan(canonical(place.site, protected), canonical(place.site, anchor))

    def change(site: Site, parts: SiteMaps, plan: Tensor) -> SiteMaps:
        left, right, *carried = (
            side.unstack(plan @ side.stack(affine, site.heads), affine)
            for side, affine in zip(site.sides, (parts.left, parts.right, *parts.carried), strict=True)
        )
        return toward(site, replace(parts, left=left, right=right, carried=tuple(carried)), SiteMaps.read(site, anchor))

    return protected.transform([SiteRewrite(site, change) for site in sites], fit)
