"""Null shift: secret additions to weights and biases that LayerNorm and softmax cannot see."""

from typing import Annotated

from redteam.anatomy import Sites
from redteam.checkpoint import Checkpoint
from redteam.plugins.contracts import defense
from redteam.plugins.settings import Range
from redteam.symmetry import ShiftLock
from redteam.views import DefenderView


@defense("null-shift", exact=True, keyed=True, weakened={"size": 3.0})
def null_shift(
    view: DefenderView,
    *,
    size: Annotated[float, Range(0.01, 1000.0, log=True)] = 10.0,
    sites: Sites = ("qk", "vo", "mlp"),
) -> Checkpoint:
    """W ← W + c (1/γ)ᵀ, b ← b − c Σ β/γ at reads, W ← W + 1 uᵀ, b ← b + α at writes, bk ← bk + c, bv and bo exchanged.

    No change of basis, so no fit of one sees it for what it is: as a chain, `mergelock+null-shift` misleads fits that
    don't take these freedoms away first. They can be taken away by anybody who knows of them.

    Args:
        view: The victim and its key.
        size: In standard deviations of the weights of a unit (a row that reads, a column that writes).
        sites: Kinds of sites to shift.
    """
    lock = ShiftLock(size, lambda label: view.generator(f"shift {label}"), sites)
    view.locks.append(lock)
    return lock.put_on(view.victim)
