"""The tied fit of everything: at every kind of sites the largest group that is legal there."""

from __future__ import annotations

from collections.abc import Iterable

from redteam.anatomy import KINDS, ORDER, anatomy_of
from redteam.checkpoint import Checkpoint
from redteam.checkpoint.vocabulary import in_common
from redteam.symmetry.alignment import is_unambiguous, shared_sides
from redteam.symmetry.fitting import fit_gauges
from redteam.symmetry.shifts import restore


def fit_all(protected: Checkpoint, anchor: Checkpoint, kinds: Iterable[str]) -> Checkpoint:
    """Fits every kind of sites that the architecture has; lazy, and the function stays.

    Where gauges of different sites lie on one another in the same tensors (a rotated stream under heads, channels
    between two convolutions), the fits alternate: once with what each site has to itself, once with everything.

    Args:
        protected: What a lock may have moved.
        anchor: The public base, or another relative.
        kinds: Kinds of sites, in any order; those that the architecture lacks are passed over.

    Raises:
        BadInput: As `fit_gauges`.
    """
    wanted = set(kinds)
    for there, again in fit_rounds(protected, anchor, wanted):
        protected = fit_gauges(protected, anchor, there, None, again=again)
    # Gains change what the additive freedoms are, so that these are settled once more.
    return restore(protected, anchor, [kind for kind in KINDS if kind in wanted]) if "norm" in wanted else protected


def fit_rounds(protected: Checkpoint, anchor: Checkpoint, kinds: Iterable[str]) -> list[tuple[list[str], bool]]:
    """In which order kinds of sites are fitted, once or twice, and whether the other sites have then been fitted."""
    wanted = set(kinds)
    protected, anchor = in_common(protected, anchor)
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
