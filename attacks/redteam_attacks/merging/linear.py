"""Linear merge (model soup): the weighted mean of the experts."""

from collections.abc import Mapping
from functools import reduce

import torch
from torch import Tensor

from redteam.checkpoint import Checkpoint
from redteam.plugins.contracts import merger
from redteam.views import MergerView
from redteam_attacks.merging.entrywise import entrywise
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
    held = dict(holders(view))

    def merge(name: str) -> Tensor:
        tensors = [expert[name] for expert in held[name].values()]
        w = weight_of(held[name], weights, tensors[0].reshape(-1))
        return entrywise(lambda *parts: (w * torch.stack(parts)).sum(0) / w.sum(), *tensors, dtype=_dtype(held, name))

    outline = {n: (next(iter(experts.values())).shape(n), _dtype(held, n)) for n, experts in held.items()}
    return Checkpoint.computed(outline, merge, next(iter(view.experts.values())).config)


def _dtype(held: Mapping[str, Mapping[str, Checkpoint]], name: str) -> torch.dtype:
    found = {expert.dtype(name) for expert in held[name].values()}
    if len(found) == 1:
        return found.pop()
    # torch promotes no float of 8 bits
    narrow = {dtype for dtype in found if dtype.is_floating_point and dtype.itemsize == 1}
    return reduce(torch.promote_types, {*(found - narrow), *([torch.float32] if narrow else [])})
