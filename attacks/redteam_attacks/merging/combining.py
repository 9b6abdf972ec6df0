"""How peft combines tensors of one shape, whether they are factors, whole changes or what stands for them elsewhere."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Literal, get_args

import numpy as np
import torch
from torch import Tensor

from redteam_attacks.merging.dare import thinned
from redteam_attacks.merging.ties import agreeing, trimmed

Combination = Literal["linear", "ties", "dare_linear", "dare_ties", "magnitude_prune"]
"""Names of peft.

| name | entries that are kept | what becomes of them |
|---|---|---|
| `linear` | all | their weighted sum |
| `magnitude_prune` | the largest | their weighted sum |
| `dare_linear` | drawn, each with probability density, and divided by that | their weighted sum |
| `ties` | the largest | Σ w x over those whose sign is that of Σ x, divided by how many they are |
| `dare_ties` | drawn, each with probability density, and divided by that | as with `ties` |
"""
COMBINATIONS: tuple[Combination, ...] = get_args(Combination)


def combined(
    how: Combination,
    parts: Mapping[str, Tensor],
    *,
    weights: Mapping[str, float],
    density: float,
    draws: Callable[[str], np.random.Generator],
) -> Tensor:
    """One tensor from one of each task, as `peft.utils.merge_utils` computes it.

    Args:
        how: By which name.
        parts: Task → tensor, float64, all of one shape.
        weights: By task.
        density: The share of entries that is kept; of no use to `linear`.
        draws: Gives the random stream of a task; read where entries are drawn alone.
    """
    if how in ("ties", "magnitude_prune"):
        parts = {task: trimmed(part, density) for task, part in parts.items()}
    elif how in ("dare_linear", "dare_ties"):
        parts = {task: thinned(part, density, draws(task)) for task, part in parts.items()}
    stacked = torch.stack(list(parts.values()))
    w = torch.tensor([weights[task] for task in parts], dtype=stacked.dtype, device=stacked.device)
    weighted = stacked * w.reshape(-1, *[1] * (stacked.ndim - 1))
    if how not in ("ties", "dare_ties"):
        return weighted.sum(0)
    agree = agreeing(stacked, stacked)
    return (weighted * agree).sum(0) / agree.sum(0).clamp(min=1)
