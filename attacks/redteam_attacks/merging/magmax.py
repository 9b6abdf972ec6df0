"""MagMax: of every entry, the task vector that moved it farthest."""

from typing import Annotated

import torch
from torch import Tensor

from redteam.checkpoint import Checkpoint
from redteam.plugins.contracts import merger
from redteam.plugins.settings import Range
from redteam.views import MergerView
from redteam_attacks.merging.entrywise import entrywise
from redteam_attacks.merging.holders import onto_base


@merger(
    "magmax",
    tunable="coefficient",
    holds={"order", "permutation", "still"},
    paper="Marczak et al., MagMax, arXiv:2407.06322",
)
def magmax(view: MergerView, *, coefficient: Annotated[float, Range(0.05, 2.0)] = 0.5) -> Checkpoint:
    """θ₀ + λ τ_t of the t with the largest |τ_t|, entry by entry; the positive one of two that are as large.

    Args:
        view: The experts and the base.
        coefficient: λ.
    """

    def change(start: Tensor, *experts: Tensor) -> Tensor:
        deltas = torch.stack(experts).sub_(start)
        high, low = deltas.amax(0), deltas.amin(0)
        return start + coefficient * torch.where(high >= -low, high, low)

    def merge(name: str, experts: dict[str, Checkpoint]) -> Tensor:
        start = view.base[name]
        return entrywise(change, start, *(expert[name] for expert in experts.values()), dtype=start.dtype)

    return onto_base(view, merge)
