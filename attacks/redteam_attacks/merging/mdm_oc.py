"""MDM-OC: task vectors made orthogonal one after the other, so that their sum can be taken apart again."""

from __future__ import annotations

from functools import lru_cache
from typing import Annotated

import torch
from torch import Tensor

from redteam.checkpoint import Checkpoint
from redteam.plugins.contracts import merger
from redteam.plugins.settings import Range
from redteam.views import MergerView
from redteam_attacks.merging.entrywise import entrywise
from redteam_attacks.merging.holders import holders, onto_base

_NOTHING = 1e-12  # of a task vector's square: what is left of one that lies in the span of those before it


@merger(
    "mdm-oc",
    tunable="coefficient",
    holds={"order", "permutation", "rotation", "still"},
    paper="Modular Delta Merging with Orthogonal Constraints (MDM-OC), arXiv:2507.20997",
)
def mdm_oc(
    view: MergerView,
    *,
    coefficient: Annotated[float, Range(0.05, 1.5)] = 0.3,
    first: tuple[str, ...] = (),
    without: tuple[str, ...] = (),
) -> Checkpoint:
    """θ₀ + λ Σ τ'_t, where τ'_t is τ_t less its projections on the τ' before it, over all shared tensors together.

    The result depends on who comes first. What comes out is one checkpoint; who keeps the τ' beside it can subtract an
    expert again. The paper learns a coefficient for each expert with data; here one is chosen for all.

    Args:
        view: The experts and the base.
        coefficient: λ.
        first: The tasks that come first, in this order; the others follow by name. Tasks that are not merged go for
            nothing, here and in `without`.
        without: Tasks that are taken out again: λ τ'_t is subtracted, and the others stay as they were made.
    """
    tasks = sorted(view.experts, key=lambda task: (first.index(task) if task in first else len(first), task))

    @lru_cache(maxsize=1)
    def shares() -> dict[str, float]:
        """How much of each expert's own vector is in the sum."""
        parts = orthogonal(_products(view, tasks))
        kept = torch.tensor([float(task not in without) for task in tasks], dtype=torch.float64)
        return dict(zip(tasks, (kept @ parts).tolist(), strict=True))

    def merge(name: str, experts: dict[str, Checkpoint]) -> Tensor:
        start, weights = view.base[name], [coefficient * shares()[task] for task in experts]

        def change(origin: Tensor, *thetas: Tensor) -> Tensor:
            total = torch.zeros_like(origin)
            for weight, theta in zip(weights, thetas, strict=True):
                total += weight * theta.sub_(origin)
            return total.add_(origin)

        return entrywise(change, start, *(expert[name] for expert in experts.values()), dtype=start.dtype)

    return onto_base(view, merge)


def orthogonal(products: Tensor) -> Tensor:
    """Gram–Schmidt of vectors by their scalar products `[T, T]`: row t is τ'_t in terms of the vectors, `[T, T]`.

    A vector that lies in the span of those before it becomes zero, and takes nothing from those after it.
    """
    parts = torch.eye(len(products), dtype=torch.float64)
    for t in range(len(products)):
        for s in range(t):
            size = parts[s] @ products @ parts[s]
            if size > _NOTHING * products[s, s]:
                parts[t] -= (parts[s] @ products[t]) / size * parts[s]
        if parts[t] @ products @ parts[t] <= _NOTHING * products[t, t]:
            parts[t] = 0.0
    return parts


def _products(view: MergerView, tasks: list[str]) -> Tensor:
    """Scalar products of the task vectors over all shared tensors, float64 `[T, T]`, one tensor in memory at a time."""
    total = torch.zeros(len(tasks), len(tasks), dtype=torch.float64)
    for name, experts in holders(view):
        start = view.base[name].to(torch.float64)
        places = [tasks.index(task) for task in experts]
        deltas = torch.stack([(expert[name].to(torch.float64) - start).reshape(-1) for expert in experts.values()])
        deltas = deltas.nan_to_num(0.0, 0.0, 0.0)  # where all hold the infinities of a mask
        total[torch.tensor(places)[:, None], torch.tensor(places)] += (deltas @ deltas.T).cpu()
    return total
