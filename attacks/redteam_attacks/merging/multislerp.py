"""Multi-SLERP: the mean direction of any number of experts, taken on the sphere in one step."""

import torch
from torch import Tensor

from redteam.checkpoint import Checkpoint
from redteam.errors import BadInput
from redteam.plugins.contracts import merger
from redteam.views import MergerView
from redteam_attacks.merging.holders import Weights, weight_of, without_base
from redteam_attacks.merging.spheres import along, units


@merger(
    "multislerp",
    needs_base=False,
    holds={"identical", "order", "permutation", "rotation", "still"},
    paper="Goddard, Multi-SLERP, 2024; mergekit's `multislerp` without a base",
)
def multislerp(view: MergerView, *, weights: Weights = ()) -> Checkpoint:
    """exp_m(Σ w (û − ⟨û, m⟩ m)) Σ w ‖θ‖ of each tensor as one vector, û = θ / ‖θ‖, m the direction of Σ w û.

    Weights are divided by their sum. mergekit adds 1e-8 to every norm, and does not here. Where Σ w û is zero, two
    experts are averaged.

    Args:
        view: The experts.
        weights: w by task, 1 where none is given.

    Raises:
        BadInput: When a tensor is read in which three experts or more cancel.
    """

    def merge(name: str, experts: dict[str, Checkpoint], dtype: torch.dtype) -> Tensor:
        tensors = [expert[name] for expert in experts.values()]
        stacked = torch.stack([tensor.to(torch.float64).flatten() for tensor in tensors])
        w = weight_of(experts, weights, stacked[0])
        w = w / w.sum()
        unit, norms = units(stacked)
        middle = (w * unit).sum(0)
        if middle.norm() < 1e-8:
            if len(tensors) > 2 and norms.any():
                raise BadInput(
                    f"The experts' {name} cancel: the weighted sum of their directions is zero, and multislerp has no "
                    "direction to go in; give other weights or merge with another merger."
                )
            merged = (w * stacked).sum(0)
        else:
            middle = middle / middle.norm()
            tangents = unit - (unit * middle).sum(-1, keepdim=True) * middle
            merged = along(middle, (w * tangents).sum(0)) * (w * norms).sum()
        return merged.to(dtype).reshape(tensors[0].shape)

    return without_base(view, merge)
