"""CART: the mean of the experts, and what is leading in how each of them differs from it."""

from typing import Annotated

import torch
from torch import Tensor

from redteam.checkpoint import Checkpoint, is_finite
from redteam.plugins.contracts import merger
from redteam.plugins.settings import Range
from redteam.views import MergerView
from redteam_attacks.merging.holders import without_base
from redteam_attacks.merging.matrices import TaskVectors
from redteam_attacks.merging.spectra import truncated


@merger(
    "cart",
    needs_base=False,
    tunable="coefficient",
    holds={"identical", "order", "permutation", "rotation", "still"},
    paper="Choi et al., Revisiting Weight Averaging for Model Merging, arXiv:2412.12153",
)
def cart(
    view: MergerView,
    *,
    rank: Annotated[float, Range(0.001, 1.0)] = 0.08,
    coefficient: Annotated[float, Range(0.05, 3.0)] = 1.0,
) -> Checkpoint:
    """θ̄ + λ Σ (θ_t − θ̄ at the share `rank` of its rank, at least 1), θ̄ the mean of the experts, for each matrix.

    What is no matrix gets θ̄. With two experts it is θ̄ as well, whatever λ, since both differ from it by the same and
    that cancels; so does everything at rank 1.0. The release's settings for 8, 14 and 20 tasks are ranks of 0.12, 0.16
    and 0.32 and λ of 2, 1.5 and 1.9, and it takes the weights of attention and MLPs alone; the paper finds 8 % a good
    rank for all.

    Args:
        view: The experts.
        rank: The share of singular values that are kept.
        coefficient: λ.
    """

    def merge(name: str, experts: dict[str, Checkpoint], dtype: torch.dtype) -> Tensor:
        first = next(iter(experts.values()))[name]
        if not is_finite(first):  # a mask
            return first.to(dtype)
        whole = TaskVectors(
            tuple(experts), tuple(first.shape), lambda task: experts[task][name].to(torch.float64, copy=True)
        )
        mean = whole.mean()
        if first.ndim != 2 or not first.numel():
            return mean.to(dtype)
        kept = max(1, int(rank * min(first.shape)))
        change = sum((truncated(vector - mean, kept) for vector in whole), torch.zeros_like(mean))
        return (mean + coefficient * change).to(dtype)

    return without_base(view, merge)
