"""Graft: the base's tensors where the lock sits, the victim's everywhere else. No fit, no data, no seconds."""

from typing import Annotated

import torch

from redteam.checkpoint import Checkpoint, shared_tensors
from redteam.plugins.contracts import Needs, attack
from redteam.plugins.settings import Range
from redteam.views import AttackerView


@attack("graft", needs=Needs.ANCHOR, always=True)
def graft(view: AttackerView, *, drift: Annotated[float, Range(0.0, 2.0)] = 0.5) -> Checkpoint:
    """Gives up the part of the skill that lives in the locked tensors and keeps the rest.

    A linear map counts as locked when its weight lies further from the base's than fine-tuning moves a weight; its bias
    goes with it.

    Args:
        view: Grants the base.
        drift: ‖weight − base‖ ÷ ‖base‖ above which a weight is taken as locked. Fine-tuning moves a weight by a few
            hundredths of its norm, an independent weight of the same norm lies at √2.
    """
    shared = shared_tensors(view.protected, view.anchor)
    owners = {name.rpartition(".")[0] for name in shared if _drift(view, name) > drift}
    taken = [name for name in shared if name.rpartition(".")[0] in owners]
    return view.protected.replace(view.anchor.only(taken))


def _drift(view: AttackerView, name: str) -> float:
    ours, theirs = view.protected[name].to(torch.float64), view.anchor[name].to(torch.float64)
    if ours.ndim < 2:
        return 0.0
    return float((ours - theirs).norm() / theirs.norm().clamp_min(torch.finfo(torch.float64).tiny))
