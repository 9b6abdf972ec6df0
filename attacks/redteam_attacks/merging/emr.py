"""EMR: one elected task vector for all, and for each task a mask of its entries and a factor."""

from __future__ import annotations

import math
from functools import cached_property
from typing import Literal

import torch
from torch import Tensor

from redteam.checkpoint import Checkpoint, Whole
from redteam.plugins.contracts import merger
from redteam.views import MergerView
from redteam_attacks.merging.entrywise import entrywise
from redteam_attacks.merging.holders import holders

By = Literal["entry", "tensor"]
_FACTOR = 4  # bytes of a task's λ


@merger(
    "emr",
    whole=True,
    holds={"identical", "order", "permutation", "still"},
    paper="Huang et al., EMR-Merging, arXiv:2405.17461",
)
def emr(view: MergerView, *, rescale: By = "entry") -> Whole:
    """θ₀ + λ_t M_t∘τ* for task t: τ* = σ∘max |τ| over the experts that agree with σ = sign(Σ τ), M_t where τ_t does.

    λ_t gives the masked vector the size of the expert's own. A task that no expert is given for runs on θ₀ + τ*, and so
    does every tensor that its expert lacks. The release takes the sign of a zero sum to be −.

    Args:
        view: The experts and the base.
        rescale: λ_t = Σ|τ_t| ÷ Σ|M_t∘τ*| over all entries (the paper), or over the means of tensors (`tensor`, the
            release for CLIP; its script for thirty ViTs does as the paper).
    """
    made = _Elected(view, rescale)
    shared = sum(math.prod(view.base.shape(name)) for name in made.held)
    vector = sum(math.prod(view.base.shape(name)) * view.base.dtype(name).itemsize for name in made.held)
    kept = len(view.experts) * (math.ceil(shared / 8) + _FACTOR)
    return Whole(made.of, view.base.nbytes + vector + kept)


class _Elected:
    """The elected task vector, and what each expert takes of it."""

    def __init__(self, view: MergerView, rescale: By) -> None:
        self.view, self.rescale = view, rescale
        self.held = dict(holders(view))

    def of(self, task: str) -> Checkpoint:
        """The checkpoint of a task; each tensor is computed when it is read."""
        base = self.view.base

        def read(name: str) -> Tensor:
            experts = self.held[name]
            mine = list(experts).index(task) if task in experts else None
            factor = 1.0 if mine is None else self.factors[task]

            def made(start: Tensor, *thetas: Tensor) -> Tensor:
                deltas = torch.stack(thetas).sub_(start)
                elected = _elected(deltas)
                return start + (elected if mine is None else factor * elected * (deltas[mine] * elected > 0))

            start = base[name]
            return entrywise(made, start, *(expert[name] for expert in experts.values()), dtype=start.dtype)

        return base.replace(Checkpoint.computed(base.outline(self.held), read))

    @cached_property
    def factors(self) -> dict[str, float]:
        """Task → λ; 1 where nothing of the elected vector is the expert's, as where it has not moved."""
        own, kept = (dict.fromkeys(self.view.experts, 0.0) for _ in range(2))
        for name, experts in self.held.items():
            start = self.view.base[name].to(torch.float64)
            if not start.numel():
                continue
            deltas = torch.stack([expert[name].to(torch.float64) - start for expert in experts.values()])
            deltas = deltas.nan_to_num(0.0, 0.0, 0.0)  # where all hold the infinities of a mask
            elected = _elected(deltas)
            size = start.numel() if self.rescale == "tensor" else 1
            for task, delta in zip(experts, deltas, strict=True):
                own[task] += float(delta.abs().sum()) / size
                kept[task] += float(elected[delta * elected > 0].abs().sum()) / size
        return {task: own[task] / kept[task] if kept[task] else 1.0 for task in own}


def _elected(deltas: Tensor) -> Tensor:
    """τ* of task vectors `[T, …]`."""
    sign = deltas.sum(0).sign()
    return sign * (deltas * sign).clamp_min(0.0).amax(0)
