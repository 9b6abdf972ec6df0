"""RAM: what one expert alone changed is kept whole, what several changed is averaged."""

from collections.abc import Mapping
from functools import cache
from typing import Annotated, Literal

import torch
from torch import Tensor

from redteam.checkpoint import Checkpoint
from redteam.plugins.contracts import merger
from redteam.plugins.settings import Range
from redteam.views import MergerView
from redteam_attacks.merging.holders import by_vectors, holders

_PAPER = "Reinforced Agent Merging, arXiv:2601.13572"
Floor = Annotated[float, Range(0.0, 1.0)]


@merger("ram", holds={"order", "permutation", "still"}, paper=_PAPER)
def ram(view: MergerView, *, floor: Floor = 1e-5) -> Checkpoint:
    """θ₀ + the mean of those τ_t that exceed the floor in size, entry by entry: of one alone, all of it.

    Args:
        view: The experts and the base.
        floor: The size above which an entry counts as changed.
    """

    def change(_: str, tasks: tuple[str, ...], deltas: Tensor) -> Tensor:
        return _mean(deltas, floor, torch.ones(len(tasks), dtype=torch.float64, device=deltas.device))

    return by_vectors(view, change)


@merger("ramplus", holds={"order", "permutation", "still"}, paper=_PAPER)
def ramplus(
    view: MergerView,
    *,
    variant: Literal["paper", "mergekit"] = "paper",
    r: Annotated[float, Range(0.0, 10.0)] = 0.1,
    alpha: Annotated[float, Range(0.0, 10.0)] = 0.2,
    floor: Floor = 1e-5,
) -> Checkpoint:
    """As `ram`, where what an expert alone changed is multiplied by 1 + r · min(shared / unique, α).

    `shared` and `unique` are how many entries the expert changed with others and alone: in the whole model (`paper`),
    which reads every tensor once before, or in the tensor at hand (`mergekit`, its ramplus_tl).

    Args:
        view: The experts and the base.
        variant: Whose; see above.
        r: How much more.
        alpha: The largest ratio that counts.
        floor: The size above which an entry counts as changed.
    """

    def factors(counts: Mapping[str, Tensor]) -> dict[str, float]:
        return {t: 1 + r * min(float(n[0]) / max(float(n[1]), 1e-5), alpha) for t, n in counts.items()}

    @cache
    def whole() -> dict[str, float]:
        totals = {task: torch.zeros(2).double() for task in view.experts}
        for name, experts in holders(view):
            start = view.base[name].to(torch.float64)
            deltas = torch.stack([expert[name].to(torch.float64) - start for expert in experts.values()])
            for task, found in _counts(tuple(experts), deltas, floor).items():
                totals[task] += found
        return factors(totals)

    def change(_: str, tasks: tuple[str, ...], deltas: Tensor) -> Tensor:
        found = whole() if variant == "paper" else factors(_counts(tasks, deltas, floor))
        more = torch.tensor([found[task] for task in tasks], dtype=torch.float64, device=deltas.device)
        return _mean(deltas, floor, more)

    return by_vectors(view, change)


def _mean(deltas: Tensor, floor: float, more: Tensor) -> Tensor:
    changed = deltas.abs() > floor
    count = changed.sum(0)
    factor = torch.where(count == 1, more.reshape(-1, *[1] * (deltas.ndim - 1)), 1.0)
    return (deltas * changed * factor).sum(0) / count.clamp(min=1)


def _counts(tasks: tuple[str, ...], deltas: Tensor, floor: float) -> dict[str, Tensor]:
    """Task → how many entries it changed with others, and alone."""
    changed = (deltas.abs() > floor).reshape(len(tasks), deltas[0].numel())
    count = changed.sum(0)
    pairs = zip((changed & (count > 1)).sum(1), (changed & (count == 1)).sum(1), strict=True)
    return {task: torch.stack(pair).double().cpu() for task, pair in zip(tasks, pairs, strict=True)}
