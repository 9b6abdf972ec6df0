"""The tied fit of everything: at every kind of sites the largest group that is legal there."""

from __future__ import annotations

from collections.abc import Iterable

from redteam.anatomy import KINDS, ORDER, anatomy_of
from redteam.checkpoint import Checkpoint
from redteam.symmetry import (
    GeneralLinear,
    MirroredPermutation,
    Monomial,
    Orthogonal,
    PartialPlanar,
    Permutation,
    Planar,
    PlaneScaling,
    PlaneSigns,
    PositiveMonomial,
    PositiveScaling,
    Scaling,
    SignedPermutation,
    fit_gauges,
    restore,
)
from redteam.symmetry.alignment import is_unambiguous, shared_sides

HEADS = (
    Permutation,
    SignedPermutation,
    Scaling,
    Planar,
    PartialPlanar,
    PlaneSigns,
    Monomial,
    Orthogonal,
    GeneralLinear,
)
"""The groups of a head's dimensions."""

_NEURONS = (Permutation, PositiveScaling, PositiveMonomial, Scaling, SignedPermutation, Monomial)
STREAM = (Permutation, MirroredPermutation, SignedPermutation, Orthogonal)
"""The groups of the residual stream."""

CLAIMS: frozenset[tuple[str, type]] = frozenset(
    {
        *((kind, group) for kind in ("qk", "vo") for group in HEADS),
        *(("mlp", group) for group in _NEURONS),
        *(("residual", group) for group in STREAM),
        ("qk-norm", PlaneScaling),
        ("heads", Permutation),
        ("queries", Permutation),
        ("experts", Permutation),
        ("norm", Scaling),
        ("norm-scale", PositiveScaling),
    }
)
"""What the largest legal group of every site undoes: pairs of a kind of sites and a group."""

LOCKS = (
    "mergelock",
    "rotation",
    "permutation",
    "scaling",
    "general-linear",
    "planar",
    "signed-permutation",
    "null-shift",
    "params",
)
"""The defenses that lock so."""


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
    for there, again in rounds(protected, anchor, wanted):
        protected = fit_gauges(protected, anchor, there, None, again=again)
    # Gains change what the additive freedoms are, so that these are settled once more.
    return restore(protected, anchor, [kind for kind in KINDS if kind in wanted]) if "norm" in wanted else protected


def rounds(protected: Checkpoint, anchor: Checkpoint, kinds: Iterable[str]) -> list[tuple[list[str], bool]]:
    """In which order kinds of sites are fitted, once or twice, and whether the other sites have then been fitted."""
    wanted = set(kinds)
    anatomy = anatomy_of(protected)
    there: list[str] = [kind for kind in ORDER if kind in wanted and anatomy.sites((kind,))]
    if not all(shared_sides(site, protected, anchor) for site in anatomy.sites(("residual",))):
        there = [kind for kind in there if kind != "residual"]
    mixed = any(
        side.shared
        for site in anatomy.sites(there)
        for side in site.sides
        if site.kind != "norm-scale" and not is_unambiguous(site, protected, anchor)
    )
    return [(there, again) for again in ((False, True) if mixed else (False,))]
