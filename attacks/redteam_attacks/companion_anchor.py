"""Companion anchor: the tied fit towards the attacker's own experts, where the base is withheld."""

from typing import Literal

from redteam.anatomy import ORDER, Sites
from redteam.checkpoint import Checkpoint
from redteam.plugins.contracts import Needs, attack
from redteam.symmetry.fit_all import fit_all
from redteam.views import AttackerView
from redteam_attacks.companions import mean_of
from redteam_attacks.tied import CLAIMS, LOCKS


@attack("companion-anchor", breaks=CLAIMS, needs=Needs.COMPANIONS, targets=LOCKS, keeps_function=True)
def companion_anchor(
    view: AttackerView, *, anchor: Literal["mean", "first"] = "mean", sites: Sites = ORDER
) -> Checkpoint:
    """Fits every site as `gauge-fit` does, towards other fine-tunes of the same base.

    The experts' task vectors stand between them and the base, which a mean of n of them lessens by about √n where they
    are unrelated. What they have in common is what a lock has to hide from.

    Args:
        view: Grants the attacker's own experts.
        anchor: The mean of all experts, or the first alone.
        sites: Kinds of sites to fit.

    Raises:
        Inapplicable: If there is no expert.
    """
    experts = list(view.companions.values())[: 1 if anchor == "first" else None]
    return fit_all(view.protected, mean_of(experts), sites)
