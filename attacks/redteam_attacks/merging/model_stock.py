"""Model Stock: the mean of the experts, drawn towards the base as far as their task vectors disagree."""

from typing import Literal

import torch
from torch import Tensor

from redteam.checkpoint import Checkpoint
from redteam.plugins.contracts import merger
from redteam.views import MergerView
from redteam_attacks.merging.holders import by_vectors, require_experts
from redteam_attacks.merging.spheres import units


@merger(
    "model-stock",
    holds={"identical", "order", "permutation", "rotation", "still"},
    paper="Jang et al., Model Stock, arXiv:2403.19522",
)
def model_stock(view: MergerView, *, by: Literal["tensor", "row"] = "tensor") -> Checkpoint:
    """θ₀ + t mean τ with t = N c / (1 + (N−1) c), c the mean cosine of two of the N task vectors.

    Where task vectors are orthogonal it returns the base, which protects nobody, and t is negative where c is. mergekit
    divides by 1e-6 where the product of two norms is smaller, so that it moves less than this where task vectors are
    short. A tensor that one expert alone has in the base's shape becomes that expert's.

    Args:
        view: Two experts or more and the base.
        by: Whether c is taken of whole tensors or of rows (mergekit's filter_wise).

    Raises:
        BadInput: If there is one expert.
    """
    require_experts(view, "model-stock", 2, more=True)

    def change(_: str, tasks: tuple[str, ...], deltas: Tensor) -> Tensor:
        count, shape = len(tasks), deltas.shape[1:]
        if count == 1:
            return deltas[0]
        flat = deltas if by == "row" and len(shape) > 1 else deltas.reshape(count, 1, -1)
        unit, _norms = units(flat)
        pairs = torch.combinations(torch.arange(count))
        c = (unit[pairs[:, 0]] * unit[pairs[:, 1]]).sum(-1, keepdim=True).mean(0)
        below = 1 + (count - 1) * c
        t = torch.where(below > 1e-12, count * c / below, 0.0)
        return (t * flat.mean(0)).reshape(shape)

    return by_vectors(view, change)
