"""AdaMerging: how much of each task vector is added, tensor by tensor, is learned on inputs without labels."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import partial
from typing import Annotated

import torch
from torch import Tensor, nn

from redteam.checkpoint import Checkpoint
from redteam.errors import Inapplicable
from redteam.plugins.contracts import Needs, merger
from redteam.plugins.settings import Range
from redteam.views import MergerView
from redteam_attacks.merging.blends import Blend, shuffled, widened
from redteam_attacks.merging.entrywise import entrywise
from redteam_attacks.merging.holders import holders, onto_base
from redteam_attacks.merging.ties import agreeing, floors_of, trimmed_vectors

_BATCHES = 2  # of each task to a step: the release's loop stops after the second


@merger(
    "adamerging",
    needs=Needs.INPUTS,
    holds={"order", "permutation", "rotation", "still"},
    paper="Yang et al., AdaMerging: Adaptive Model Merging for Multi-Task Learning, arXiv:2310.02575",
)
def adamerging(
    view: MergerView,
    *,
    layers: bool = True,
    plus: bool = False,
    density: Annotated[float, Range(0.01, 1.0)] = 0.2,
    start: Annotated[float, Range(0.0, 1.0)] = 0.3,
    samples: Annotated[int, Range(1, 4096)] = 256,
    steps: Annotated[int, Range(0, 100_000)] = 500,
    rate: Annotated[float, Range(1e-6, 1.0)] = 1e-3,
    batch: Annotated[int, Range(1, 4096)] = 16,
) -> Checkpoint:
    """θ₀ + Σ λ_t τ_t, where Adam makes the entropy of what the merge answers least, summed over the tasks.

    λ is kept between 0 and 1. Each step takes two batches of every task, under that task's head; nobody looks at
    labels. Of logits for every token the mean entropy of tokens that are no padding is taken. What is not finite of a
    gradient counts as zero. The λ of a tensor that changes no answer, as a key's bias, is left to rounding by Adam.

    Args:
        view: The experts, the base and inputs of the experts' tasks.
        layers: One λ for each tensor and task, which paper and release call layer-wise; otherwise one for each task.
            A tensor that is no parameter of the network keeps `start`.
        plus: AdaMerging++: TIES' vectors, trimmed and without what disagrees with the elected sign, in place of τ.
        density: The share of entries that trimming keeps, with `plus`.
        start: λ before any step.
        samples: Inputs of each task; all where there are fewer.
        steps: Of the optimizer.
        rate: Adam's.
        batch: Inputs to a batch.
    """
    floors = floors_of(view, density) if plus else {}
    learned = _Coefficients(view, floors, samples, layers=layers).learned(start, steps, rate, batch) if steps else {}

    def merge(name: str, experts: dict[str, Checkpoint]) -> Tensor:
        amounts = torch.tensor([learned.get((name, task), start) for task in experts], dtype=torch.float64)[:, None]

        def change(origin: Tensor, *thetas: Tensor) -> Tensor:
            return (amounts.to(origin.device) * _vectors(origin, thetas, experts, floors)).sum(0).add_(origin)

        return _entrywise(change, view.base[name], experts, name)

    return onto_base(view, merge)


class _Coefficients:
    """What is learned from: base and vectors as parts of one sum, in the networks of all experts."""

    def __init__(self, view: MergerView, floors: Mapping[str, float], samples: int, *, layers: bool) -> None:
        self.view, self.layers, self.tasks = view, layers, sorted(view.experts)
        self.inputs = {task: view.inputs(task, samples) for task in self.tasks}
        held = dict(holders(view))
        model = view.experts[max(self.tasks, key=lambda task: sum(task in experts for experts in held.values()))]
        names = [name for name, experts in held.items() if model in experts.values()]

        def vector(task: str, name: str) -> Tensor:
            """Zeros where the task's expert lacks the tensor."""
            experts, origin = held[name], view.base[name]
            if task not in experts:
                return torch.zeros(origin.shape, dtype=outline[name][1], device=origin.device)
            place = list(experts).index(task)
            return _entrywise(
                lambda o, *t: _vectors(o, t, experts, floors)[place], origin, experts, name, outline[name][1]
            )

        outline = {name: (view.base.shape(name), widened([view.base.dtype(name)])) for name in names}
        vectors = [Checkpoint.computed(outline, partial(vector, task)) for task in self.tasks]
        parts = [model.replace(part) for part in (view.base.only(names), *vectors)]
        self.names, self.blend = names, Blend(parts, names, view.experts)

    def learned(self, start: float, steps: int, rate: float, size: int) -> dict[tuple[str, str], float]:
        """Name of a tensor and task → λ; of tensors that no parameter holds only where there is one λ for a task."""
        rows = {place: number if self.layers else 0 for number, place in enumerate(self.blend.stacks)}
        shape = (max(rows.values()) + 1, len(self.tasks))
        raw = torch.full(shape, start, dtype=self.blend.dtype, device=self.blend.device, requires_grad=True)
        optimizer = torch.optim.Adam([raw], lr=rate)
        batches = {t: shuffled(self.view, t, len(next(iter(i.values()))), size) for t, i in self.inputs.items()}
        with torch.enable_grad():
            for _ in range(steps):
                raw.grad = torch.zeros_like(raw)
                for task in self.tasks * _BATCHES:
                    weights = nn.functional.pad(raw.clamp(0.0, 1.0), (1, 0), value=1.0)
                    chosen = next(batches[task])
                    inputs = {key: value[chosen] for key, value in self.inputs[task].items()}
                    summed = self.blend.summed({place: weights[row] for place, row in rows.items()}.__getitem__)
                    loss = self.blend.on(task, summed, partial(_entropy, task=task, inputs=inputs))
                    (gradient,) = torch.autograd.grad(loss, raw)
                    raw.grad += gradient.nan_to_num(0.0, 0.0, 0.0)
                optimizer.step()
        found = raw.detach().double().clamp(0.0, 1.0)
        places = self.blend.places if self.layers else dict.fromkeys(self.names, next(iter(rows)))
        return {
            (name, task): float(found[rows[place], column])
            for name, place in places.items()
            for column, task in enumerate(self.tasks)
        }


def _vectors(origin: Tensor, thetas: Sequence[Tensor], tasks: Iterable[str], floors: Mapping[str, float]) -> Tensor:
    """τ `[T, …]`, or TIES' where there are floors: trimmed, and without what disagrees with the elected sign."""
    deltas = trimmed_vectors(origin, thetas, [floors.get(task, 0.0) for task in tasks])
    return deltas * agreeing(deltas, deltas) if floors else deltas


def _entrywise(
    formula: Callable[..., Tensor],
    origin: Tensor,
    experts: Mapping[str, Checkpoint],
    name: str,
    dtype: torch.dtype | None = None,
) -> Tensor:
    return entrywise(formula, origin, *(expert[name] for expert in experts.values()), dtype=dtype or origin.dtype)


def _entropy(network: nn.Module, task: str, inputs: Mapping[str, Tensor]) -> Tensor:
    """The mean entropy of a network's answers, a scalar in nats."""
    logits: Tensor = network(**inputs).logits
    if logits.shape[-1] < 2:
        raise Inapplicable(
            f"adamerging makes the entropy of predictions least, and a model of {task} gives one number, which has "
            "none; take another merger."
        )
    entropy = -(logits.softmax(-1) * logits.log_softmax(-1)).sum(-1)
    mask = inputs.get("attention_mask")
    if mask is not None and mask.shape == entropy.shape:
        entropy = entropy[mask.bool()]
    mean: Tensor = entropy.mean()
    return mean
