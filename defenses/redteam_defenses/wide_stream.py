"""Wide stream: the residual stream wider by dimensions that a rotation hides, so that no tensor fits the base's."""

from typing import Annotated, Literal

from redteam.checkpoint import Checkpoint
from redteam.plugins.contracts import defense
from redteam.plugins.settings import Range
from redteam.symmetry.widening import Widen
from redteam.views import DefenderView


@defense("wide-stream", exact=True, keyed=True, changes_architecture=True, weakened={"basis": "plain"})
def wide_stream(
    view: DefenderView, *, extra: Annotated[int, Range(1, 512)] = 8, basis: Literal["rotated", "plain"] = "rotated"
) -> Checkpoint:
    """E ← E P, what reads W ← W diag(γ) P d / (d + k), what writes W ← Pᵀ W, where P Pᵀ = ((d + k) / d) I.

    Needs RMSNorms on the stream, a config that can name a head width (`head_dim`), and an untied head or one whose last
    gain is the same for all dimensions. The norms' gains γ go into the maps that read them.

    Args:
        view: The victim and its key.
        extra: How many dimensions k the stream gets, rounded up to a multiple of the number of heads.
        basis: Whether they are mixed with the others by a secret rotation or lie open at the end.
    """
    lock = Widen(extra, lambda label: view.generator(f"widen {label}"), view.base, rotated=basis == "rotated")
    view.locks.append(lock)
    return lock.put_on(view.victim)
