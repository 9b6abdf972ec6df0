"""The tied fit of everything: at every kind of sites the largest group that is legal there."""

from __future__ import annotations

from collections.abc import Iterable

from redteam.anatomy import KINDS, Site, anatomy_of
from redteam.checkpoint import Checkpoint
from redteam.symmetry import (
    GeneralLinear,
    Group,
    Monomial,
    Orthogonal,
    Permutation,
    Planar,
    Scaling,
    SignedPermutation,
    fit_gauges,
    restore,
)

ORDER = ("heads", "queries", "qk", "vo", "mlp", "norm")
"""Kinds of sites in the order in which they are fitted: what is recognised in any basis first, and gains last, since a
norm's columns can be compared only when the heads and neurons that read it are in order."""


def fit_everything(protected: Checkpoint, anchor: Checkpoint, kinds: Iterable[str]) -> Checkpoint:
    """Fits every kind of sites that the architecture has; lazy, and the function stays.

    Args:
        protected: What a lock may have moved.
        anchor: The public base, or another relative.
        kinds: Kinds of sites, in any order; those that the architecture lacks are passed over.

    Raises:
        BadInput: As `redteam.symmetry.fit_gauges`.
    """
    wanted = set(kinds)
    for kind in (kind for kind in ORDER if kind in wanted):
        sites = anatomy_of(protected).sites((kind,))
        if sites:
            protected = fit_gauges(protected, anchor, (kind,), _largest(sites[0]))
    # Gains change what the additive freedoms are, so that these are settled once more.
    return restore(protected, anchor, [kind for kind in KINDS if kind in wanted]) if "norm" in wanted else protected


def _largest(site: Site) -> Group:
    groups: tuple[Group, ...] = (
        GeneralLinear(),
        Orthogonal(),
        Planar(layout=getattr(site, "planes", None) or "half"),
        Monomial(),
        Scaling(),
        SignedPermutation(),
        Permutation(),
    )
    return next(group for group in groups if group.name in site.legal)
