"""Slerp: two experts merged along the arc between them."""

import torch
from torch import Tensor

from redteam.checkpoint import Checkpoint
from redteam.plugins.contracts import merger
from redteam.views import MergerView
from redteam_attacks.merging.entrywise import entrywise, totals
from redteam_attacks.merging.holders import Weights, require_experts, weight_of, without_base
from redteam_attacks.merging.spheres import arc_shares


@merger(
    "slerp",
    needs_base=False,
    holds={"identical", "order", "permutation", "rotation", "still"},
    paper="Shoemake, Animating rotation with quaternion curves, 1985; mergekit's `slerp`",
)
def slerp(view: MergerView, *, weights: Weights = ()) -> Checkpoint:
    """sin((1−t)φ)/sin φ θ₁ + sin(tφ)/sin φ θ₂ of each tensor as one vector, φ the angle between them, in float64.

    t is w₂ / (w₁ + w₂), so that mergekit's `t` is `weights=[[other,t],[base_model,1−t]]` with the model that it calls
    the base as one of the two experts. Where |cos φ| > 0.9995 the line is straight, as in mergekit. A tensor that one
    of the two has in another shape is the other's.

    Args:
        view: Two experts.
        weights: w by task, 1 where none is given.

    Raises:
        BadInput: If there are not exactly two experts.
    """
    require_experts(view, "slerp", 2)

    def merge(name: str, experts: dict[str, Checkpoint], dtype: torch.dtype) -> Tensor:
        tensors = [expert[name] for expert in experts.values()]
        if len(tensors) == 1:
            return tensors[0].to(dtype)
        w = weight_of(experts, weights, tensors[0]).flatten()
        square, opposite, product = totals(
            lambda one, other: torch.stack((one.dot(one), other.dot(other), one.dot(other))), *tensors
        )
        first, second = arc_shares(square, opposite, product, float(w[1] / w.sum()), straight=0.9995)
        return entrywise(lambda one, other: first * one + second * other, *tensors, dtype=dtype)

    return without_base(view, merge)
