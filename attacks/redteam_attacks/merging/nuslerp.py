"""NuSLERP: the task vectors of two experts merged along the arc between them."""

from typing import Literal

from torch import Tensor

from redteam.checkpoint import Checkpoint
from redteam.plugins.contracts import merger
from redteam.views import MergerView
from redteam_attacks.merging.holders import Weights, by_vectors, require_experts, weight_of
from redteam_attacks.merging.spheres import between


@merger(
    "nuslerp",
    holds={"identical", "order", "permutation", "rotation", "still"},
    paper="mergekit's `nuslerp` with a base model",
)
def nuslerp(
    view: MergerView, *, along: Literal["tensor", "last", "first"] = "tensor", weights: Weights = ()
) -> Checkpoint:
    """θ₀ + the arc between τ₁ and τ₂ at t = w₂ / (w₁ + w₂); straight where they are parallel. Without a base: `slerp`.

    | along | vectors are | mergekit's |
    |---|---|---|
    | `tensor` | whole tensors | nuslerp_flatten=true |
    | `last` | along the last axis: rows of a matrix | nuslerp_flatten=false |
    | `first` | along the first axis: columns of a matrix | nuslerp_flatten=false, nuslerp_row_wise=true |

    Args:
        view: Two experts and the base.
        along: What is a vector; see above.
        weights: w by task, 1 where none is given.

    Raises:
        BadInput: If there are not exactly two experts.
    """
    require_experts(view, "nuslerp", 2)

    def change(_: str, tasks: tuple[str, ...], deltas: Tensor) -> Tensor:
        if len(tasks) == 1:
            return deltas[0]
        w = weight_of(tasks, weights, deltas[0].reshape(-1)).flatten()
        shape, t = deltas.shape[1:], float(w[1] / w.sum())
        if along == "tensor":
            one, other = deltas.flatten(1)
            return between(one, other, t, straight=1 - 1e-14).reshape(shape)
        axis = -1 if along == "last" else 0
        one, other = (delta.movedim(axis, -1) for delta in deltas)
        return between(one, other, t, straight=1 - 1e-14).movedim(-1, axis)

    return by_vectors(view, change)
