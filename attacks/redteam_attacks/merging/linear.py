"""Linear merge (model soup): the weighted mean of the experts."""

from functools import reduce

import torch

from redteam.checkpoint import Checkpoint
from redteam.plugins.contracts import merger
from redteam.views import MergerView
from redteam_attacks.merging.holders import Weights, holders, weight_of


@merger(
    "linear",
    needs_base=False,
    paper="Wortsman et al., Model soups, arXiv:2203.05482 (uniform soup); mergekit's `linear` with normalize=true",
)
def linear(view: MergerView, *, weights: Weights = ()) -> Checkpoint:
    """Σ w_t θ_t / Σ w_t over the experts that share a tensor, in float64; no base is needed, and nothing is tuned.

    Identical experts give the expert, and the order of the experts is irrelevant.

    Args:
        view: The experts.
        weights: w by task, 1 where none is given.
    """
    merged = {}
    for name, experts in holders(view):
        tensors = [expert[name] for expert in experts.values()]
        w = weight_of(experts, weights, tensors[0])
        mean = (w * torch.stack([tensor.to(torch.float64) for tensor in tensors])).sum(0) / w.sum()
        merged[name] = mean.to(reduce(torch.promote_types, (tensor.dtype for tensor in tensors)))
    return Checkpoint.of(merged, next(iter(view.experts.values())).config)
