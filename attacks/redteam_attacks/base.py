"""Trivial attacker: the public base in the victim's place. It must steal nothing."""

from redteam.checkpoint import Checkpoint, shared_tensors
from redteam.plugins.contracts import Needs, attack
from redteam.views import AttackerView


@attack("base", role="trivial", needs=Needs.ANCHOR)
def base(view: AttackerView) -> Checkpoint:
    """Throws the victim away. A score that rewards this rewards repairing the merge instead of stealing the skill."""
    return view.protected.replace(view.anchor.only(shared_tensors(view.protected, view.anchor)))
