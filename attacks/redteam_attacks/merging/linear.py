"""Linear merge (model soup): the weighted mean of the experts."""

import torch
from torch import Tensor

from redteam.checkpoint import Checkpoint
from redteam.plugins.contracts import merger
from redteam.views import MergerView
from redteam_attacks.merging.entrywise import entrywise
from redteam_attacks.merging.holders import Weights, weight_of, without_base


@merger(
    "linear",
    needs_base=False,
    holds={"identical", "order", "permutation", "rotation", "still"},
    paper="Wortsman et al., Model soups, arXiv:2203.05482 (uniform soup); mergekit's `linear` with normalize=true",
)
def linear(view: MergerView, *, weights: Weights = ()) -> Checkpoint:
    """Σ w_t θ_t / Σ w_t over the experts that share a tensor, in float64; no base is needed, and nothing is tuned.

    Identical experts give the expert, and the order of the experts is irrelevant.

    Args:
        view: The experts.
        weights: w by task, 1 where none is given.
    """

    def merge(name: str, experts: dict[str, Checkpoint], dtype: torch.dtype) -> Tensor:
        tensors = [expert[name] for expert in experts.values()]
        w = weight_of(experts, weights, tensors[0].reshape(-1))
        return entrywise(lambda *parts: (w * torch.stack(parts)).sum(0) / w.sum(), *tensors, dtype=dtype)

    return without_base(view, merge)
