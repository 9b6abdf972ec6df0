"""Median: the base plus a multiple of the median task vector, entry by entry."""

from typing import Annotated

import torch

from redteam import Checkpoint, MergerView, Range, merger


@merger("median", tunable="coefficient")
def median(view: MergerView, *, coefficient: Annotated[float, Range(0.1, 3.0)] = 1.0) -> Checkpoint:
    """θ₀ + λ · median τ in float64, the mean of the middle two where their number is even.

    Args:
        view: The experts and the base.
        coefficient: λ.
    """
    merged = {}
    for name, experts in view.shared():
        start = view.base[name].double()
        moves = torch.stack([expert[name].double() - start for expert in experts])
        merged[name] = (start + coefficient * moves.quantile(0.5, dim=0)).to(view.base.dtype(name))
    return view.base.replace(merged)
