"""No defense: the victim as it is. A run without it has no ground to stand on."""

from redteam.checkpoint import Checkpoint
from redteam.plugins.contracts import defense
from redteam.views import DefenderView


@defense("none", exact=True, keyed=False, protects=False)
def none(view: DefenderView) -> Checkpoint:
    """Publishes the victim unprotected; an honest verdict on it is INEFFECTIVE."""
    return view.victim
