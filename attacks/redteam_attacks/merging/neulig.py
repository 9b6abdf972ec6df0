"""NeuLig: how much each expert counts in their mean is learned, by a head that reads what the experts answer."""

from __future__ import annotations

from typing import Annotated

import torch
from torch import Tensor, nn

from redteam.checkpoint import Checkpoint
from redteam.plugins.contracts import Needs, merger
from redteam.plugins.settings import Range
from redteam.tasks import batched
from redteam.views import MergerView
from redteam_attacks.merging.blends import Blend, shuffled
from redteam_attacks.merging.entrywise import entrywise
from redteam_attacks.merging.holders import weight_of, without_base


@merger(
    "neulig",
    needs_base=False,
    needs=Needs.SAMPLES,
    holds={"identical", "order", "permutation", "rotation", "still"},
    paper="NeuLig: merging weights learned by a small head on the experts' outputs",
)
def neulig(
    view: MergerView,
    *,
    samples: Annotated[int, Range(1, 4096)] = 256,
    steps: Annotated[int, Range(0, 100_000)] = 100,
    rate: Annotated[float, Range(1e-6, 1.0)] = 1e-3,
    batch: Annotated[int, Range(1, 4096)] = 64,
) -> Checkpoint:
    """θ = Σ w_i θ_i, w the softmax of a linear head on the experts' answers, trained by Adam on labels.

    The loss is that of the merge on a batch of one task after the other, plus the mean square of Σ w_i (θ_i − θ̄) over
    all weights, which draws it to the experts' mean θ̄. The head starts at zero, so that no step at all gives θ̄. In the
    end w is its mean over all samples: the result is one checkpoint.

    Args:
        view: The experts and labelled samples of their tasks.
        samples: Of each task; all where there are fewer.
        steps: Of the optimizer.
        rate: Adam's.
        batch: Samples to a step.
    """
    experts = sorted(view.experts)
    learned = [1.0] * len(experts)
    if steps and len(experts) > 1:
        learned = _Ligand(view, experts, samples).learned(steps, rate, batch)
    weights = tuple(zip(experts, learned, strict=True))

    def merge(name: str, held: dict[str, Checkpoint], dtype: torch.dtype) -> Tensor:
        tensors = [expert[name] for expert in held.values()]
        w = weight_of(held, weights, tensors[0].reshape(-1))
        return entrywise(lambda *parts: (w * torch.stack(parts)).sum(0) / w.sum(), *tensors, dtype=dtype)

    return without_base(view, merge)


class _Ligand:
    """What the head learns from: all experts' weights and what each of them answers on every task."""

    def __init__(self, view: MergerView, experts: list[str], samples: int) -> None:
        self.view, self.experts = view, experts
        self.data = {task: view.samples(task, samples) for task in experts}
        everywhere = {name for name, holders in view.shared() if len(holders) == len(experts)}
        self.blend = Blend([view.experts[one] for one in experts], everywhere, view.experts)
        answers = {task: self._answers(task) for task in experts}
        width = max(one.shape[-1] for one in answers.values())
        self.answers = {t: nn.functional.pad(one, (0, width - one.shape[-1])).flatten(1) for t, one in answers.items()}

    def learned(self, steps: int, rate: float, size: int) -> list[float]:
        """The weights of the experts after training, in their order."""
        inputs = next(iter(self.answers.values())).shape[1]
        head = nn.utils.skip_init(
            nn.Linear, inputs, len(self.experts), dtype=self.blend.dtype, device=self.blend.device
        )
        nn.init.zeros_(head.weight)
        nn.init.zeros_(head.bias)
        optimizer = torch.optim.Adam(head.parameters(), lr=rate)
        rows = {task: shuffled(self.view, task, len(self.data[task][1]), size) for task in self.experts}
        products = self._products()
        with torch.enable_grad():
            for step in range(steps):
                task = self.experts[step % len(self.experts)]
                chosen = next(rows[task])
                weights = head(self.answers[task][chosen]).softmax(-1).mean(0)
                loss = self._loss(task, weights, chosen) + weights @ products @ weights
                optimizer.zero_grad()
                loss.backward()
                optimizer.step()
        with torch.no_grad():
            found = torch.cat([head(answers).softmax(-1) for answers in self.answers.values()])
        return [float(weight) for weight in found.double().mean(0)]

    def _answers(self, task: str) -> Tensor:
        """What each expert answers under a task's head, `[n, experts, classes]`; of logits for every token the mean."""
        inputs, found = self.data[task][0], []
        with torch.no_grad():
            for number in range(len(self.experts)):
                mine = {place: stack[number] for place, stack in self.blend.stacks.items()}
                logits = self.blend.on(
                    task, mine, lambda network: torch.cat([network(**part).logits for part in batched(inputs)])
                )
                found.append(logits.flatten(1, -2).mean(1) if logits.ndim > 2 else logits)
        return torch.stack(found, 1)

    def _loss(self, task: str, weights: Tensor, rows: Tensor) -> Tensor:
        """The training loss of the experts' weighted mean under a task's head."""
        inputs, labels = self.data[task]
        batch = {key: value[rows] for key, value in inputs.items()}, labels[rows]
        merged = self.blend.summed(lambda _: weights)
        return self.blend.on(task, merged, lambda network: self.view.loss(task, network, batch))

    def _products(self) -> Tensor:
        """Products `[T, T]` of the experts' distances from their mean: wᵀ P w is the mean square over all weights."""
        total, entries = torch.zeros((), device=self.blend.device), 0
        for stack in self.blend.stacks.values():
            apart = (stack - stack.mean(0)).flatten(1)
            total, entries = total + apart @ apart.T, entries + apart.shape[1]
        return total / max(1, entries)
