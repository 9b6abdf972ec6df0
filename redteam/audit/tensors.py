"""Every tensor of a model against the base's: equal, rounded, changed, or not there."""

from __future__ import annotations

import math

import torch

from redteam.audit.findings import TensorFinding
from redteam.audit.walk import Progress, same
from redteam.checkpoint import Checkpoint

_PIECE = 2**22  # numbers that are in float64 at a time


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
    if same(model, base, name):
        return TensorFinding(name=name, state="equal")
    here, there = model[name], base[name]
    if torch.equal(there.to(here.dtype), here):
        return TensorFinding(name=name, state="rounded")
    apart = size = 0.0
    for one, other in zip(here.flatten().split(_PIECE), there.flatten().split(_PIECE), strict=True):
        other = other.to(torch.float64)
        apart += float((one.to(torch.float64) - other).square().sum())
        size += float(other.square().sum())
    distance = (apart / size) ** 0.5 if size else math.inf
    return TensorFinding(name=name, state="changed", distance=distance if math.isfinite(distance) else None)
