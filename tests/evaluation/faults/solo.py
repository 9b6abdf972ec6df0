"""A lock, its weakened variant and the attack that breaks just that, all by one author; and a name that ships."""

from __future__ import annotations

from redteam.checkpoint import Checkpoint
from redteam.plugins.contracts import Needs, attack, defense
from redteam.symmetry import Orthogonal, Permutation, fit_gauges
from redteam.views import AttackerView, DefenderView

KINDS = ("qk", "vo")


@defense("homemade", exact=True, keyed=True, weakened={"turned": False})
def homemade(view: DefenderView, *, turned: bool = True) -> Checkpoint:
    """Heads in a rotated basis, or in another order; neurons in another order."""
    heads = view.lock(KINDS, Orthogonal() if turned else Permutation())
    return view.lock(("mlp",), Permutation(), checkpoint=heads)


@attack("own-breaker", breaks={(k, Permutation) for k in (*KINDS, "mlp")}, needs=Needs.ANCHOR, targets=("homemade",))
def own_breaker(view: AttackerView) -> Checkpoint:
    """Undoes permutations."""
    return fit_gauges(view.protected, view.anchor, (*KINDS, "mlp"), Permutation())


@defense("planar", exact=True, keyed=True, weakened={"turned": False})
def planar(view: DefenderView, *, turned: bool = True) -> Checkpoint:
    """Has the name of one that ships, for which attacks were made that know nothing of this one."""
    return homemade(view, turned=turned)
