"""Split neurons: some neurons doubled, or joined by others that cancel, so that shapes no longer fit the base's."""

from typing import Annotated, Literal

import numpy as np

from redteam.checkpoint import Checkpoint
from redteam.plugins.contracts import defense
from redteam.plugins.settings import Range
from redteam.symmetry.neurons import Cliques, Split
from redteam.views import DefenderView


@defense("split-neurons", exact=True, keyed=True, changes_architecture=True, weakened={"share": 0.01})
def split_neurons(
    view: DefenderView,
    *,
    share: Annotated[float, Range(0.001, 1.0, log=True)] = 0.25,
    form: Literal["split", "clique", "dependent", "opposite"] = "split",
) -> Checkpoint:
    """up ← [up; up_i], down ← [s down_i, (1 − s) down_i], in a secret order, with s uniform in [0.1, 0.9].

    A merger that works tensor by tensor finds nothing to merge the MLPs with. A single further neuron does that; more
    of them only cost more. With `form=clique` groups of two neurons and more join instead that read the same and whose
    outputs add up to zero (arXiv:2303.09732). With `form=dependent` no two of a group read the same: they have a gate
    in common and linearly dependent rows, or are pairs ±a behind an activation of which f(x) − f(−x) is linear, as that
    of GELU and SiLU is, or of which f(x) + f(−x) is quadratic, as that of a squared ReLU is. With `form=opposite` no
    two gates are the same either: pairs of them ±g make products (f(g) − f(−g)) a = g a, which are dependent.

    Args:
        view: The victim and its key.
        share: How many neurons come to those that are there, as a share of them.
        form: What comes: twins, groups that read the same, or groups that only depend on one another, with a gate in
            common or opposite ones.
    """

    def generators(label: str) -> np.random.Generator:
        return view.generator(f"{form} {label}")

    lock = Split(share, generators) if form == "split" else Cliques(share, generators, form)
    view.locks.append(lock)
    return lock.put_on(view.victim)
