"""Plane assignment: rotary planes that were exchanged put back, then each plane's angle and scale."""

from typing import Annotated

from redteam.checkpoint import Checkpoint
from redteam.plugins.contracts import Needs, attack
from redteam.plugins.settings import Range
from redteam.symmetry.planes import fit_planes
from redteam.views import AttackerView


@attack("plane-assignment", needs=Needs.ANCHOR, targets=("aloepri",))
def plane_assignment(view: AttackerView, *, window: Annotated[int, Range(1, 64)] = 8) -> Checkpoint:
    """max over orders of Σ |⟨q, q₀⟩| / (‖q‖ ‖q₀‖) + |⟨k, k₀⟩| / (‖k‖ ‖k₀‖) over planes, then the planar fit.

    Queries and keys of a plane are one complex row each, and no angle or scale of the plane changes the size of their
    correlation. Heads must be in the base's order, as after `gauge-fit`. Where no rotary embedding turns queries and
    keys, or a norm comes before it, they stay as they are.

    Args:
        view: Grants the base.
        window: How far from its place a plane is looked for: less than so many planes.
    """
    return fit_planes(view.protected, view.anchor, window)
