"""Additive shifts on a site: how far its parts lie from the base's along what the function does not see."""

from __future__ import annotations

import re
from collections.abc import Mapping

from torch import Tensor

from redteam.anatomy import Site
from redteam.audit.findings import ShiftFinding
from redteam.symmetry.shifts import Shift, SiteMaps, shifts_of

LEAST = 0.05
"""The smallest shift that is reported, in standard deviations of the weights."""
OVER_TRAINING = 5.0
"""And how many times as large it must be as what training did to the weights there. On the experts of the scenario
digits the largest is 0.8 times as large: a value bias, which is trained as the weights are."""


def shifts_found(
    site: Site, view: Mapping[str, Tensor], base: Mapping[str, Tensor], rest: float
) -> tuple[ShiftFinding, ...]:
    """The shifts of a site that are no work of training.

    Args:
        site: A pair of maps.
        view: The model, with the locks that were found taken off.
        base: The public base.
        rest: Distance between the two that no gauge explains, in units of the base's norm.

    Raises:
        BadInput: If a tensor holds NaN or infinity.
    """
    freedoms = shifts_of(site)
    if not freedoms:
        return ()
    parts, anchor = SiteMaps.read(site, view), SiteMaps.read(site, base)
    found = []
    for shift in freedoms:
        amount, unit = shift.toward(parts, anchor), shift.unit(parts)
        parts = shift.move(parts, amount)
        seen = unit > 0
        size = float((amount[seen] / unit[seen]).square().mean().sqrt()) if bool(seen.any()) else 0.0
        if size > max(LEAST, OVER_TRAINING * rest):
            found.append(ShiftFinding(kind=_words(shift), side=getattr(shift, "side", ""), size=size))
    return tuple(found)


def _words(shift: Shift) -> str:
    """`KeyBiasShift` → `"key bias"`."""
    name = type(shift).__name__.removesuffix("Shift")
    return re.sub(r"(?<=[a-z])(?=[A-Z])", " ", name).lower()
