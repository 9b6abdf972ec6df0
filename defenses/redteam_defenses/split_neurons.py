"""Split neurons: some neurons doubled and their outputs shared out, so that shapes no longer fit the base's."""

from typing import Annotated

from redteam.checkpoint import Checkpoint
from redteam.plugins.contracts import defense
from redteam.plugins.settings import Range
from redteam.symmetry.reshaping import Split
from redteam.views import DefenderView


@defense("split-neurons", exact=True, keyed=True, changes_architecture=True, weakened={"share": 0.01})
def split_neurons(view: DefenderView, *, share: Annotated[float, Range(0.001, 1.0, log=True)] = 0.25) -> Checkpoint:
    """up ← [up; up_i], down ← [s down_i, (1 − s) down_i], in a secret order, with s uniform in [0.1, 0.9].

    A merger that works tensor by tensor finds nothing to merge the MLPs with. A single doubled neuron does that; more
    of them only cost more.

    Args:
        view: The victim and its key.
        share: How many of the neurons are doubled.
    """
    lock = Split(share, lambda label: view.generator(f"split {label}"))
    view.locks.append(lock)
    return lock.put_on(view.victim)
