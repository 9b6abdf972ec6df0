"""The holder of the key, who takes the lock off as its owner would: the ceiling for every attack."""

from redteam.checkpoint import Checkpoint
from redteam.plugins.contracts import Needs, attack
from redteam.views import AttackerView


@attack("key-holder", role="ceiling", needs=Needs.CODE | Needs.KEY, keeps_function=True, changes_architecture=True)
def key_holder(view: AttackerView) -> Checkpoint:
    """Runs the defense backwards under its own key. If even this falls short, the lock destroys what it protects."""
    return view.unlock(view.key)
