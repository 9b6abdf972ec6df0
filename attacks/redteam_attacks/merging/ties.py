"""TIES: task vectors trimmed, a sign elected for every weight, and the mean taken of what agrees with it."""

from collections.abc import Iterable
from typing import Annotated, Literal

import torch
from torch import Tensor

from redteam.checkpoint import Checkpoint
from redteam.errors import BadSetting
from redteam.plugins.contracts import merger
from redteam.plugins.settings import Range
from redteam.views import MergerView
from redteam_attacks.merging.holders import holders


@merger("ties", tunable="coefficient", paper="Yadav et al., TIES-Merging, arXiv:2306.01708")
def ties(
    view: MergerView,
    *,
    variant: Literal["paper", "mergekit", "peft"] = "paper",
    density: Annotated[float, Range(0.01, 1.0)] = 0.2,
    weights: Annotated[tuple[float, ...], Range(1e-6, 1e6)] = (),
    coefficient: Annotated[float, Range(0.1, 3.0)] = 1.0,
) -> Checkpoint:
    """θ₀ + λ Σ_{t: sign τ_t = σ} w_t τ_t / n, where σ = sign Σ τ_t of the trimmed τ; σ = + where the sum is 0.

    | variant | trims | elects by | divides by |
    |---|---|---|---|
    | `paper` | the whole model: the largest entries wherever they are | Σ τ_t | how many agree |
    | `mergekit` | every tensor by itself | Σ w_t τ_t | the weights of those that agree (its normalize=true) |
    | `peft` | every tensor by itself | Σ τ_t | how many agree |

    With all weights 1 the last two are the same. Identical experts give θ₀ + λ trim(τ); the order is irrelevant. A
    rotation of what is merged does not commute with it, since signs and sizes are taken entry by entry.

    Args:
        view: The experts and the base.
        variant: Whose; see above.
        density: The share of entries that trimming keeps; the paper's is 0.2.
        weights: w, one for each expert in the scenario's order; all 1 by default.
        coefficient: λ.

    Raises:
        BadSetting: If there are weights, and not as many as experts.
    """
    if weights and len(weights) != len(view.experts):
        raise BadSetting(f"weights of ties has {len(weights)} numbers; expected one for each of {len(view.experts)}.")
    share = dict(zip(view.experts, weights or [1.0] * len(view.experts), strict=True))
    floors = _floors(view, density) if variant == "paper" else {}
    merged = {}
    for name, experts in holders(view):
        start = view.base[name].to(torch.float64)
        kept = []
        for task, expert in experts.items():
            delta = expert[name].to(torch.float64) - start
            floor = floors[task] if variant == "paper" else smallest_kept([delta], density)
            kept.append(delta * (delta.abs() >= floor))
        deltas = torch.stack(kept)
        w = torch.tensor([share[task] for task in experts], dtype=torch.float64).reshape(-1, *[1] * start.ndim)
        agree = agreeing(deltas, deltas * w if variant == "mergekit" else deltas)
        divisor = ((w if variant == "mergekit" else torch.ones_like(w)) * agree).sum(0)
        mean = (deltas * w * agree).sum(0) / torch.where(divisor > 0, divisor, 1.0)
        merged[name] = (start + coefficient * mean).to(view.base.dtype(name))
    return view.base.replace(merged)


def smallest_kept(deltas: Iterable[Tensor], density: float) -> float:
    """The size from which entries are kept, so that the largest share `density` of all of them is (more at ties)."""
    sizes = torch.cat([delta.abs().flatten() for delta in deltas])
    count = max(1, int(density * len(sizes)))
    return float(sizes.kthvalue(len(sizes) - count + 1).values)


def agreeing(deltas: Tensor, votes: Tensor) -> Tensor:
    """Where an expert's entry has the elected sign, that of the sum of the votes (+ where it is 0).

    Args:
        deltas: [T, …], trimmed: zeros never agree.
        votes: [T, …].
    """
    return deltas.sign() == torch.where(votes.sum(0) >= 0, 1.0, -1.0)


def _floors(view: MergerView, density: float) -> dict[str, float]:
    """By task, the size from which the entries of the whole task vector are kept."""
    deltas: dict[str, list[Tensor]] = {}
    for name, experts in holders(view):
        start = view.base[name].to(torch.float64)
        for task, expert in experts.items():
            deltas.setdefault(task, []).append(expert[name].to(torch.float64) - start)
    return {task: smallest_kept(parts, density) for task, parts in deltas.items()}
