"""Every tensor of a model against the base's: equal, rounded, changed, or not there."""

from __future__ import annotations

import math
from typing import Literal

import torch
from torch import Tensor

from redteam.audit.findings import TensorFinding
from redteam.audit.walk import Progress
from redteam.checkpoint import Checkpoint
from redteam.symmetry.shelved import squared_distance


def compare_tensors(model: Checkpoint, base: Checkpoint, progress: Progress | None = None) -> tuple[TensorFinding, ...]:
    """One finding for each name that either has, the model's in their order first; one tensor in memory at a time."""
    names = tuple(dict.fromkeys((*model, *base)))
    found = []
    for done, name in enumerate(names):
        if progress is not None:
            progress(done, len(names), name)
        found.append(_compare(name, model, base))
    return tuple(found)


def _compare(name: str, model: Checkpoint, base: Checkpoint) -> TensorFinding:
    if name not in base:
        return TensorFinding(name=name, state="added")
    if name not in model:
        return TensorFinding(name=name, state="missing")
    if model.shape(name) != base.shape(name):
        return TensorFinding(name=name, state="reshaped")
    here, there = model[name], base[name]
    if (state := standing(here, there)) != "changed":
        return TensorFinding(name=name, state=state)
    apart, size = squared_distance(here, there), squared_distance(there)
    distance = (apart / size) ** 0.5 if size else math.inf
    return TensorFinding(name=name, state=state, distance=distance if math.isfinite(distance) else None)


def standing(here: Tensor, there: Tensor) -> Literal["equal", "rounded", "changed"]:
    """Of two tensors of one shape: equal bit for bit, the second one rounded to the first one's dtype, or neither."""
    if not torch.equal(there.to(here.dtype), here):
        return "changed"
    return "equal" if here.dtype == there.dtype else "rounded"
