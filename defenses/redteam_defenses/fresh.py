"""Fresh weights: a newly initialised network in the victim's place, which protects everything and is worth nothing."""

from typing import Annotated

from redteam.checkpoint import Checkpoint
from redteam.plugins.contracts import defense
from redteam.plugins.settings import Range
from redteam.views import DefenderView


@defense("fresh", exact=False, keyed=False, protects=False)
def fresh(view: DefenderView, *, seed: Annotated[int, Range(0, 2**31 - 1)] = 0) -> Checkpoint:
    """Initialised as before any training, head included: the floor. Whoever steals something from it has a bug.

    It is not keyed, since there is nothing that a key could take off again.

    Args:
        view: The victim, of which the architecture alone is used.
        seed: Of the initialisation.
    """
    return view.victim.fresh(seed)
