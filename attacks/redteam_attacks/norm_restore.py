"""Norm restore: every tensor's task vector as long as the companions' are on average."""

import torch

from redteam.checkpoint import Checkpoint, shared_tensors
from redteam.errors import Inapplicable
from redteam.plugins.contracts import Needs, attack
from redteam.views import AttackerView


@attack("norm-restore", needs=Needs.ANCHOR | Needs.COMPANIONS, targets=("mergeguard",))
def norm_restore(view: AttackerView) -> Checkpoint:
    """τ ← τ · mean over companions of ‖τ_t‖ ÷ ‖τ‖, per tensor.

    A merge gives all experts one coefficient, which suits task vectors of one length: one that was shortened goes
    under, one that was blown up drowns the others. Where a tensor didn't move there is nothing to make longer.

    Args:
        view: Grants the base and the attacker's own experts.

    Raises:
        Inapplicable: If there is no expert.
    """
    companions = list(view.companions.values())
    if not companions:
        raise Inapplicable("There is no companion whose size to take; expected at least one of the attacker's own.")
    restored = {}
    for name in shared_tensors(view.protected, view.anchor):
        ours, start = view.protected[name], view.anchor[name].to(torch.float64)
        holders = [expert for expert in companions if name in expert and expert.shape(name) == ours.shape]
        away = ours.to(torch.float64) - start
        size = float(away.norm())
        if not holders or not size > 0 or not ours.is_floating_point():
            continue
        wanted = sum(float((expert[name].to(torch.float64) - start).norm()) for expert in holders) / len(holders)
        restored[name] = (start + away * (wanted / size)).to(ours.dtype)
    return view.protected.replace(restored)
