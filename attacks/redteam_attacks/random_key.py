"""Trivial attacker: the defense's own code run backwards under a random key. It must steal nothing."""

from redteam.checkpoint import Checkpoint
from redteam.key import Key
from redteam.plugins.contracts import Needs, attack
from redteam.views import AttackerView


@attack("random-key", role="trivial", needs=Needs.CODE, keeps_function=True, changes_architecture=True)
def random_key(view: AttackerView) -> Checkpoint:
    """Knows the kind of lock and guesses the secret: what the secret is worth."""
    return view.unlock(Key(view.generator("guess").bytes(32)))
