"""TIES: task vectors trimmed, a sign elected for every weight, and the mean taken of what agrees with it."""

from typing import Annotated, Literal

import torch
from torch import Tensor

from redteam.checkpoint import Checkpoint
from redteam.plugins.contracts import merger
from redteam.plugins.settings import Range
from redteam.views import MergerView
from redteam_attacks.merging.holders import Weights, holders, weight_of


@merger("ties", tunable="coefficient", paper="Yadav et al., TIES-Merging, arXiv:2306.01708")
def ties(
    view: MergerView,
    *,
    variant: Literal["paper", "mergekit", "peft"] = "paper",
    density: Annotated[float, Range(0.01, 1.0)] = 0.2,
    weights: Weights = (),
    coefficient: Annotated[float, Range(0.1, 3.0)] = 1.0,
) -> Checkpoint:
    """θ₀ + λ Σ_{t: sign τ_t = σ} w_t τ_t / n, where σ = sign Σ τ_t of the trimmed τ; σ = + where the sum is 0.

    | variant | trims | elects by | divides by |
    |---|---|---|---|
    | `paper` | the whole model: the largest entries wherever they are | Σ τ_t | how many agree |
    | `mergekit` | every tensor by itself | Σ w_t τ_t | the weights of those that agree (its normalize=true) |
    | `peft` | every tensor by itself | Σ τ_t | how many agree |

    With all weights 1 the last two are the same. At the edge they differ: of entries of one size all are kept here, and
    always at least one, where peft keeps an arbitrary one and none; where Σ τ is 0 the authors' release takes the sign
    that is more frequent in the whole model.

    Identical experts give θ₀ + λ trim(τ); the order of the experts is irrelevant. A rotation of what is merged does not
    commute with it, since signs and sizes are taken entry by entry.

    Args:
        view: The experts and the base.
        variant: Whose; see above.
        density: The share of entries that trimming keeps; the paper's is 0.2.
        weights: w by task, 1 where none is given.
        coefficient: λ.
    """
    floors = {task: _floor(view, task, density) for task in view.experts} if variant == "paper" else {}
    merged = {}
    for name, experts in holders(view):
        start = view.base[name].to(torch.float64)
        deltas = torch.stack([_trimmed(expert[name] - start, floors.get(t), density) for t, expert in experts.items()])
        w = weight_of(experts, weights, start)
        agree = agreeing(deltas, deltas * w if variant == "mergekit" else deltas)
        divisor = ((w if variant == "mergekit" else torch.ones_like(w)) * agree).sum(0)
        mean = (deltas * w * agree).sum(0) / torch.where(divisor > 0, divisor, 1.0)
        merged[name] = (start + coefficient * mean).to(view.base.dtype(name))
    return view.base.replace(merged)


def agreeing(deltas: Tensor, votes: Tensor) -> Tensor:
    """Where an expert's entry has the elected sign, that of the sum of the votes (+ where it is 0).

    Args:
        deltas: `[T, …]`; zeros never agree.
        votes: `[T, …]`.
    """
    return deltas.sign() == torch.where(votes.sum(0) >= 0, 1.0, -1.0)


def _trimmed(delta: Tensor, floor: float | None, density: float) -> Tensor:
    """The entries that are at least as large as the floor; by default the one that the tensor sets for itself."""
    sizes = delta.abs().float()
    return delta * (sizes >= (_smallest_kept(sizes.flatten(), density) if floor is None else floor))


def _floor(view: MergerView, task: str, density: float) -> float:
    """The size from which the entries of a whole task vector are kept. Held are its sizes alone, in float32."""
    names = [name for name, experts in holders(view) if task in experts]
    sizes = torch.empty(sum(view.base[name].numel() for name in names), dtype=torch.float32)
    filled = 0
    for name in names:
        part = (view.experts[task][name] - view.base[name].to(torch.float64)).abs().flatten()
        sizes[filled : filled + len(part)] = part
        filled += len(part)
    return _smallest_kept(sizes, density) if len(sizes) else 0.0


def _smallest_kept(sizes: Tensor, density: float) -> float:
    """The size from which entries are kept, so that the largest share `density` of all of them is (more at ties)."""
    count = max(1, int(density * len(sizes)))
    return float(sizes.kthvalue(len(sizes) - count + 1).values) if len(sizes) else 0.0
