"""Seed regeneration: the defense's own code run backwards under every small seed, the nearest to the base kept."""

from typing import Annotated

import torch

from redteam.checkpoint import Checkpoint
from redteam.key import Key
from redteam.plugins.contracts import Needs, attack
from redteam.plugins.settings import Range
from redteam.views import AttackerView


@attack(
    "seed-regeneration",
    needs=Needs.CODE | Needs.ANCHOR,
    targets=("params",),
    changes_architecture=True,
)
def seed_regeneration(view: AttackerView, *, limit: Annotated[int, Range(1, 10**6, log=True)] = 64) -> Checkpoint:
    """argmin over n < limit of ‖unlock(n) − base‖², the protected model itself among the candidates.

    A wrong seed puts a second lock on the first, which takes the weights further away; the right one leaves the task
    vector alone. The release of PaRaMS fixes 0 for every model. Keys that are drawn have 2²⁵⁶ values.

    Args:
        view: Grants the defense's code and the base.
        limit: How many seeds to try, from 0 upwards.
    """
    best, least = view.protected, _away(view.protected, view.anchor)
    for seed in range(limit):
        found = view.unlock(Key.of_seed(seed))
        found = Checkpoint.of(dict(found.items()), found.config)
        if (away := _away(found, view.anchor)) < least:
            best, least = found, away
    return best


def _away(checkpoint: Checkpoint, anchor: Checkpoint) -> float:
    """‖checkpoint − anchor‖² over the anchor's tensors; one that is missing, or of another shape, counts as zeros."""
    away = 0.0
    for name, tensor in anchor.items():
        ours = tensor.to(torch.float64)
        if name in checkpoint and checkpoint.shape(name) == anchor.shape(name):
            ours = ours - checkpoint[name].to(torch.float64)
        away += float(ours.square().sum())
    return away
