"""An attack that has the whole victim, and spoils the companions a little more with every setting."""

from __future__ import annotations

from typing import Annotated

import torch

from redteam.checkpoint import Checkpoint, shared_tensors
from redteam.plugins.contracts import Needs, attack
from redteam.plugins.settings import Range
from redteam.views import AttackerView


@attack("spoils", needs=Needs.ANCHOR)
def spoils(view: AttackerView, *, size: Annotated[float, Range(0.0, 10.0)] = 0.1) -> Checkpoint:
    """Adds noise, as a share of each weight's deviation."""
    moved = {}
    for name in shared_tensors(view.protected, view.anchor):
        tensor = view.protected[name]
        drawn = torch.from_numpy(view.generator(name).standard_normal(tuple(tensor.shape))).float()
        moved[name] = tensor + size * tensor.std(unbiased=False).nan_to_num(0) * drawn
    return view.protected.replace(moved)


@attack("pretends", needs=Needs.ANCHOR | Needs.COMPANIONS)
def pretends(view: AttackerView) -> Checkpoint:
    """Looks well where the attacker looks: their own tasks lose nothing, since nothing of the victim is merged."""
    moved = {}
    for name in shared_tensors(view.protected, view.anchor):
        mean = torch.stack([companion[name] for companion in view.companions.values()]).mean(0)
        moved[name] = view.anchor[name] + 0.5 * (mean - view.anchor[name])
    return view.protected.replace(moved)
