"""No attack at all: the naive free-rider merges the protected weights as they are."""

from redteam.checkpoint import Checkpoint
from redteam.plugins.contracts import attack
from redteam.views import AttackerView


@attack("none", role="naive", keeps_function=True)
def none(view: AttackerView) -> Checkpoint:
    """Returns the protected weights unchanged; every protection is measured against this."""
    return view.protected
