"""Rotation lock: every head in a secret orthonormal basis."""

from redteam.anatomy import Sites
from redteam.checkpoint import Checkpoint
from redteam.plugins.contracts import defense
from redteam.symmetry import Orthogonal
from redteam.views import DefenderView


@defense("rotation", exact=True, keyed=True, weakened={"sites": ("vo",)})
def rotation(view: DefenderView, *, sites: Sites = ("qk", "vo")) -> Checkpoint:
    """Rotations and reflections drawn from the Haar measure.

    Args:
        view: The victim and its key.
        sites: Kinds of sites to lock.
    """
    return view.lock(sites, Orthogonal())
