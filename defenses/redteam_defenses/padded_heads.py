"""Padded heads: every head wider by dimensions that cancel, hidden by a rotation, so that no shape fits the base's."""

from typing import Annotated, Literal

from redteam.checkpoint import Checkpoint
from redteam.plugins.contracts import defense
from redteam.plugins.settings import Range
from redteam.symmetry.reshaping import Pad
from redteam.views import DefenderView


@defense("padded-heads", exact=True, keyed=True, changes_architecture=True, weakened={"basis": "plain"})
def padded_heads(
    view: DefenderView, *, extra: Annotated[int, Range(1, 128)] = 4, basis: Literal["rotated", "plain"] = "rotated"
) -> Checkpoint:
    """Wq ← R [√(n′/n) Wq; Z], Wk ← R [Wk; Z′], value and output likewise, where Zᵀ Z′ = 0; n′ = n + extra.

    Needs a network whose config can name another head width (`head_dim`), such as transformers' ViT from 5.0.

    Args:
        view: The victim and its key.
        extra: How many dimensions each head gets.
        basis: Whether the added dimensions are mixed with the others by a secret rotation or lie open at the end.
    """
    lock = Pad(extra, lambda label: view.generator(f"pad {label}"), rotated=basis == "rotated")
    view.locks.append(lock)
    return lock.put_on(view.victim)
