"""Head matching: whole heads put back where the base has them, by what no basis of theirs changes, then fitted."""

from redteam.checkpoint import Checkpoint
from redteam.plugins.contracts import Needs, attack
from redteam.symmetry import Permutation
from redteam.symmetry.fit_all import fit_all
from redteam.views import AttackerView
from redteam_attacks.tied import HEADS


@attack(
    "head-matching",
    breaks={
        ("heads", Permutation),
        ("queries", Permutation),
        *((kind, group) for kind in ("qk", "vo") for group in HEADS),
    },
    needs=Needs.ANCHOR,
    targets=("mergelock", "rotation", "scaling", "general-linear", "planar", "signed-permutation"),
    keeps_function=True,
)
def head_matching(view: AttackerView) -> Checkpoint:
    """Assigns heads by the cosines ⟨Wqᵀ Wk, Wq₀ᵀ Wk₀⟩ and ⟨Wo Wv, Wo₀ Wv₀⟩, then fits the basis of each.

    These products are what a lock inside of heads leaves alone, so that a shuffle on top of one, or under one, is seen
    all the same. Query heads that share a key are matched within their group.

    Args:
        view: Grants the base.
    """
    return fit_all(view.protected, view.anchor, ("heads", "queries", "qk", "vo"))
