"""Radial strip: the part of each task vector that only makes the base larger or smaller, taken off."""

import torch

from redteam.checkpoint import Checkpoint, shared_tensors
from redteam.plugins.contracts import Needs, attack
from redteam.views import AttackerView
from redteam_attacks.masked import kept_mask


@attack("radial-strip", needs=Needs.ANCHOR, targets=("mergeguard",))
def radial_strip(view: AttackerView) -> Checkpoint:
    """τ ← τ + c θ₀ with c = −⟨τ, θ₀⟩ ÷ ‖θ₀‖², for every weight of two dimensions or more.

    A penalty on ‖θ‖² pulls weights towards zero, and what it adds to the task vector is −c θ₀; what a task has learned
    is mostly at right angles to that. Coordinates that equal the base's tell nothing and stay. Gains and biases stay as
    they are: a gain's size is something that tasks learn.

    Args:
        view: Grants the base.
    """
    stripped = {}
    for name in shared_tensors(view.protected, view.anchor):
        ours, base = view.protected[name], view.anchor[name]
        if ours.ndim < 2 or not ours.is_floating_point():
            continue
        start, kept = base.to(torch.float64), kept_mask(ours, base)
        seen = start * kept
        size = float(seen.square().sum())
        if size > 0:
            away = ours.to(torch.float64) - start
            shrunk = -float((away * seen).sum()) / size
            stripped[name] = torch.where(kept, start + away + shrunk * start, start).to(ours.dtype)
    return view.protected.replace(stripped)
