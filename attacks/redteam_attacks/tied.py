"""What the tied fit of everything (`redteam.symmetry.fit_all`) undoes, and on which defenses."""

from __future__ import annotations

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
)

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
