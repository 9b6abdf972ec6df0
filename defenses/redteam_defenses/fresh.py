"""Fresh weights: a newly initialised network in the victim's place, which protects everything and is worth nothing."""

from redteam.checkpoint import Checkpoint
from redteam.plugins.contracts import defense
from redteam.views import DefenderView


@defense("fresh", exact=False, keyed=False, protects=False)
def fresh(view: DefenderView) -> Checkpoint:
    """Initialised as before any training, head included: the floor. Whoever steals something from it has a bug.

    It is not keyed, since there is nothing that a key could take off again.

    Args:
        view: The victim, of which the architecture alone is used.
    """
    return view.victim.fresh(int(view.generator("fresh").integers(2**31)))
