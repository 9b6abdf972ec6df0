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
    goes with it. A bias as far off goes alone, and its weight stays: output biases take up products of two shifted
    tensors, and half precision leaves them without digits long before it costs a weight its skill.

    Args:
        view: Grants the base.
        drift: ‖tensor − base‖ ÷ ‖base‖ above which a weight, or a map's bias, is taken as locked. Fine-tuning moves a
            weight by a few hundredths of its norm and a bias by up to two tenths, an independent one lies at √2.
    """
    shared = shared_tensors(view.protected, view.anchor)
    matrices = {name for name in shared if len(view.protected.shape(name)) > 1}
    norms = {_owner(name) for name in shared if name not in matrices and not name.endswith("bias")}
    far = {name for name in shared if (name in matrices or _owner(name) not in norms) and _drift(view, name) > drift}
    locked = {_owner(name) for name in far if not name.endswith("bias")}
    return view.protected.replace(view.anchor.only([n for n in shared if n in far or _owner(n) in locked]))


def _owner(name: str) -> str:
    return name.rpartition(".")[0]


def _drift(view: AttackerView, name: str) -> float:
    ours, theirs = view.protected[name].to(torch.float64), view.anchor[name].to(torch.float64)
    return float((ours - theirs).norm() / theirs.norm().clamp_min(torch.finfo(torch.float64).tiny))
