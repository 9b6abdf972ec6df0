"""Every expert as a low-rank adapter of the base: by its own factors where it is one, else by singular vectors."""

from __future__ import annotations

from collections.abc import Callable
from typing import Annotated

import torch
from torch import Tensor

from redteam.checkpoint import Checkpoint, is_finite
from redteam.checkpoint.factors import Factors
from redteam.checkpoint.singular import cut_out
from redteam.plugins.settings import Range
from redteam.views import MergerView
from redteam_attacks.merging.holders import onto_base

Rank = Annotated[int, Range(1, 4096)]
"""Of the adapters that whole models are turned into; an expert that is an adapter keeps its own."""


def by_adapters(
    view: MergerView,
    formula: Callable[[str, dict[str, Factors]], Tensor],
    *,
    rank: int,
    coefficient: float,
) -> Checkpoint:
    """θ₀ + λ times a formula of the adapters of each matrix, the mean task vector of every other tensor; rounded once.

    What is no matrix is averaged, as by the mergers that go matrix by matrix; in experts that are adapters nothing
    moved there. A tensor with more axes counts as a matrix, everything behind the first axis as columns, where an
    expert brings factors of its own for it.

    Args:
        view: The experts and the base.
        formula: Gives the change of a matrix `[rows, columns]` from its name and the adapters by task, in float64.
            Experts that did not change it are not among them, and without any it is not asked.
        rank: Of the adapters that whole models are turned into.
        coefficient: λ, of the means as well.
    """

    def merge(name: str, experts: dict[str, Checkpoint]) -> Tensor:
        stored = view.base[name]
        if not is_finite(stored):  # a mask, of which no difference is a number
            return stored
        start = stored.to(torch.float64)
        as_matrix = start.ndim == 2 or any(expert.factors(name) is not None for expert in experts.values())
        adapters, total = {}, torch.zeros_like(start)
        for task, expert in experts.items():
            delta = expert[name].to(start) - start
            if not as_matrix:
                total += delta
            elif (own := _own(expert, name, delta, start)) is not None or bool(delta.any()):
                adapters[task] = own or cut_out(delta.flatten(1), rank)
        change = formula(name, adapters).reshape(start.shape) if adapters else total / len(experts)
        return (start + coefficient * change).to(stored.dtype)

    return onto_base(view, merge)


def _own(expert: Checkpoint, name: str, delta: Tensor, start: Tensor) -> Factors | None:
    """The factors that an expert brings, if they are how it differs from this base, but for the rounding in its dtype.

    They are not where it was opened over another base.
    """
    if (found := expert.factors(name)) is None:
        return None
    found = found.to(dtype=torch.float64)
    off = delta - found.change.reshape(delta.shape)
    within = 2 * torch.finfo(expert.dtype(name)).eps * float((start + delta).norm() + delta.norm())
    return found if float(off.norm()) <= within else None
