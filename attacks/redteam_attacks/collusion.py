"""Same-key collusion: the lock read off the attacker's own expert, before and after, and taken off the victim."""

import torch

from redteam.anatomy import KINDS, ORDER, Sites
from redteam.checkpoint import Checkpoint, shared_tensors
from redteam.errors import Inapplicable
from redteam.plugins.contracts import Needs, attack
from redteam.symmetry import restore
from redteam.symmetry.fit_all import fit_rounds
from redteam.views import AttackerView
from redteam_attacks.carrying import carried_over
from redteam_attacks.tied import CLAIMS, LOCKS

_SAME = 1e-9  # of ‖expert‖²; more is left by shifts, noise and training, not by rounding


@attack(
    "collusion",
    breaks=CLAIMS,
    needs=Needs.COMPANIONS | Needs.SIBLINGS,
    targets=LOCKS,
    keeps_function=True,
)
def collusion(view: AttackerView, *, sites: Sites = ORDER) -> Checkpoint:
    """Known plaintext: min over G of ‖G · sibling − expert‖² has a solution of cost 0, and G goes on the victim.

    Neither base nor task vector is in it, so that what is left is rounding. Under keys of their own the gauge found
    says nothing of the victim's, and the function stays all the same. Where the sibling isn't its expert again (an
    additive freedom was moved), the victim's additive freedoms take the expert's amounts.

    Args:
        view: Grants the attacker's own experts, and one of them under the victim's defense.
        sites: Kinds of sites to fit.

    Raises:
        BadInput: As `redteam.symmetry.fit_gauges`.
        Inapplicable: If the defense leaves other shapes than the expert's.
    """
    ours, fitted = view.protected, []
    for task, sibling in view.siblings.items():
        expert = view.companions[task]
        for there, again in fit_rounds(sibling, expert, sites):
            sibling, ours = carried_over(sibling, expert, ours, there, again=again)
            fitted += there
        kinds = [kind for kind in KINDS if kind in fitted]
        if not _same(sibling, expert):
            ours = restore(ours, expert, kinds)
        return ours
    raise Inapplicable("No expert of the attacker's own went through this defense; expected one (`view.siblings`).")


def _same(one: Checkpoint, other: Checkpoint) -> bool:
    """In all that both have: a defense may have given the rest another form."""
    left = size = 0.0
    for name in shared_tensors(other, one):
        tensor = other[name]
        left += float((one[name].to(torch.float64) - tensor.to(torch.float64)).square().sum())
        size += float(tensor.to(torch.float64).square().sum())
    return left <= _SAME * size
