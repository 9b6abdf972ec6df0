"""Invariant space: the weights nearest to the base's with the victim's Wqᵀ Wk and Wo Wv. No gauge is fitted."""

from redteam.anatomy import Sites
from redteam.checkpoint import Checkpoint
from redteam.plugins.contracts import Needs, attack
from redteam.views import AttackerView
from redteam_attacks.invariants import to_anchor
from redteam_attacks.tied import HEADS


@attack(
    "invariant-space",
    breaks={(kind, group) for kind in ("qk", "vo") for group in HEADS},
    needs=Needs.ANCHOR,
    targets=("mergelock", "rotation", "scaling", "general-linear", "signed-permutation"),
    keeps_function=True,
)
def invariant_space(view: AttackerView, *, sites: Sites = ("qk", "vo")) -> Checkpoint:
    """min ‖W − W₀‖² over all factors W whose products, biases included, are the protected model's.

    What lies on the factors doesn't matter, whichever group it is from, nor how badly it is conditioned. Merging what
    comes out is merging the products near the base. Neurons, whose activation stands between their maps, have no such
    product, and stay as they are.

    Args:
        view: Grants the base.
        sites: Pairs of maps; a rotary embedding or a norm between queries and keys rules theirs out.
    """
    return to_anchor(view.protected, view.anchor, sites)
