"""The tied fit of everything: at every kind of sites the largest group that is legal there."""

from __future__ import annotations

from collections.abc import Iterable

from redteam.anatomy import KINDS, Sites, anatomy_of
from redteam.checkpoint import Checkpoint
from redteam.symmetry import fit_gauges, restore
from redteam.symmetry.comparison import in_common

ORDER: Sites = ("residual", "experts", "heads", "queries", "qk", "vo", "mlp", "qk-norm", "norm")
"""Kinds of sites in the order in which they are fitted: what is recognised in any basis first, and gains last, since a
norm's columns can be compared only when the heads and neurons that read it are in order."""


def fit_everything(protected: Checkpoint, anchor: Checkpoint, kinds: Iterable[str]) -> Checkpoint:
    """Fits every kind of sites that the architecture has; lazy, and the function stays.

    Where gauges of different sites lie on one another in the same tensors (a rotated stream under heads, channels
    between two convolutions), the fits alternate: once with what each site has to itself, once with everything.

    Args:
        protected: What a lock may have moved.
        anchor: The public base, or another relative.
        kinds: Kinds of sites, in any order; those that the architecture lacks are passed over.

    Raises:
        BadInput: As `redteam.symmetry.fit_gauges`.
    """
    wanted = set(kinds)
    anatomy = anatomy_of(protected)
    there = [kind for kind in ORDER if kind in wanted and anatomy.sites((kind,))]
    if not all(in_common(site, protected, anchor) for site in anatomy.sites(("residual",))):
        there = [kind for kind in there if kind != "residual"]
    mixed = {
        site.kind
        for site in anatomy.sites(there)
        if any(side.shared for side in site.sides) and not _discrete(site.legal)
    }
    for again in (False, True) if mixed else (False,):
        protected = fit_gauges(protected, anchor, there, None, again=again)
    # Gains change what the additive freedoms are, so that these are settled once more.
    return restore(protected, anchor, [kind for kind in KINDS if kind in wanted]) if "norm" in wanted else protected


def _discrete(legal: frozenset[str]) -> bool:
    """Whether the fit of every legal group is exact or wrong, so that a second one finds nothing closer."""
    return legal <= {"permutation", "mirrored-permutation", "plane-signs", "signed-permutation"}
