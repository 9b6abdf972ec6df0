"""Companion anchor: the tied fit towards the attacker's own experts, where the base is withheld."""

from functools import reduce
from typing import Literal

import torch

from redteam.anatomy import ORDER, Sites
from redteam.checkpoint import Checkpoint, shared_tensors
from redteam.errors import Inapplicable
from redteam.plugins.contracts import Needs, attack
from redteam.symmetry.fit_all import fit_all
from redteam.views import AttackerView
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
    if not experts:
        raise Inapplicable("There is no companion to fit to; expected at least one expert of the attacker's own.")
    return fit_all(view.protected, mean_of(experts), sites)


def mean_of(experts: list[Checkpoint]) -> Checkpoint:
    """The mean of what all experts have in one shape, in float64 and rounded once; of the first, what else it has."""
    first = experts[0]
    names = reduce(lambda held, expert: held & set(shared_tensors(expert, first)), experts, set(first))
    means = {}
    for name in sorted(names):
        mean = torch.stack([expert[name].to(torch.float64) for expert in experts]).mean(0)
        means[name] = mean.to(first.dtype(name))
    return first.replace(means)
