"""Task arithmetic: the base plus one multiple of the sum of the task vectors."""

from typing import Annotated

import torch
from torch import Tensor

from redteam.checkpoint import Checkpoint
from redteam.plugins.contracts import merger
from redteam.plugins.settings import Range
from redteam.views import MergerView
from redteam_attacks.merging.entrywise import entrywise


@merger(
    "task-arithmetic",
    tunable="coefficient",
    holds={"order", "permutation", "rotation", "still"},
    paper="Ilharco et al., Editing Models with Task Arithmetic, arXiv:2212.04089",
)
def task_arithmetic(view: MergerView, *, coefficient: Annotated[float, Range(0.05, 1.5)] = 0.3) -> Checkpoint:
    """θ₀ + λ Σ τ over the tensors that all experts share with the base, summed in float64.

    Args:
        view: The experts and the base.
        coefficient: λ. The order of the experts is irrelevant up to rounding.
    """
    held = dict(view.shared())

    def change(start: Tensor, *experts: Tensor) -> Tensor:
        total = torch.zeros_like(start)
        for expert in experts:
            total += expert.sub_(start)
        return total.mul_(coefficient).add_(start)

    def merge(name: str) -> Tensor:
        start = view.base[name]
        return entrywise(change, start, *(expert[name] for expert in held[name]), dtype=start.dtype)

    return view.base.replace(Checkpoint.computed(view.base.outline(held), merge))
