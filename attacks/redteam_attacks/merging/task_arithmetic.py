"""Task arithmetic: the base plus one multiple of the sum of the task vectors."""

from typing import Annotated

import torch

from redteam.checkpoint import Checkpoint
from redteam.plugins.contracts import merger
from redteam.plugins.settings import Range
from redteam.views import MergerView


@merger(
    "task-arithmetic",
    tunable="coefficient",
    paper="Ilharco et al., Editing Models with Task Arithmetic, arXiv:2212.04089",
)
def task_arithmetic(view: MergerView, *, coefficient: Annotated[float, Range(0.05, 1.5)] = 0.3) -> Checkpoint:
    """θ₀ + λ Σ τ over the tensors that all experts share with the base, summed in float64.

    Args:
        view: The experts and the base.
        coefficient: λ. The order of the experts is irrelevant up to rounding.
    """
    merged = {}
    for name, experts in view.shared():
        start = view.base[name]
        total = torch.zeros_like(start, dtype=torch.float64)
        for expert in experts:
            total += expert[name].to(torch.float64) - start.to(torch.float64)
        merged[name] = (start.to(torch.float64) + coefficient * total).to(start.dtype)
    return view.base.replace(merged)
