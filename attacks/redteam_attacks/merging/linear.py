"""Linear merge (model soup): the weighted mean of the experts."""

from typing import Annotated

import torch

from redteam.checkpoint import Checkpoint
from redteam.errors import BadSetting
from redteam.plugins.contracts import merger
from redteam.plugins.settings import Range
from redteam.views import MergerView
from redteam_attacks.merging.holders import holders


@merger(
    "linear",
    needs_base=False,
    paper="Wortsman et al., Model soups, arXiv:2203.05482 (uniform soup); mergekit's `linear` with normalize=true",
)
def linear(view: MergerView, *, weights: Annotated[tuple[float, ...], Range(1e-6, 1e6)] = ()) -> Checkpoint:
    """Σ w_t θ_t / Σ w_t over the experts that share a tensor, in float64; no base is needed, and nothing is tuned.

    Identical experts give the expert. The order of the experts is irrelevant where their weights are equal.

    Args:
        view: The experts.
        weights: w, one for each expert in the scenario's order; all equal by default.

    Raises:
        BadSetting: If there are weights, and not as many as experts.
    """
    if weights and len(weights) != len(view.experts):
        raise BadSetting(f"weights of linear has {len(weights)} numbers; expected one for each of {len(view.experts)}.")
    share = dict(zip(view.experts, weights or [1.0] * len(view.experts), strict=True))
    merged = {}
    for name, experts in holders(view):
        tensors = {task: expert[name] for task, expert in experts.items()}
        total = sum(share[task] * tensor.to(torch.float64) for task, tensor in tensors.items())
        mean = torch.as_tensor(total) / sum(share[task] for task in tensors)
        merged[name] = mean.to(next(iter(tensors.values())).dtype)
    return Checkpoint.of(merged, next(iter(view.experts.values())).config)
