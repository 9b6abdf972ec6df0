"""Fisher merging: every weight averaged by how much each expert's loss minds that it moves."""

from __future__ import annotations

from typing import Annotated

import torch
from torch import Tensor

from redteam.checkpoint import Checkpoint
from redteam.plugins.contracts import Needs, merger
from redteam.plugins.settings import Range
from redteam.views import MergerView
from redteam_attacks.merging.holders import holders, without_base


@merger(
    "fisher",
    needs_base=False,
    needs=Needs.SAMPLES,
    holds={"identical", "order", "permutation", "still"},
    paper="Matena and Raffel, Merging Models with Fisher-Weighted Averaging, arXiv:2111.09832",
)
def fisher(
    view: MergerView,
    *,
    samples: Annotated[int, Range(1, 4096)] = 256,
    normalise: bool = False,
    floor: Annotated[float, Range(0.0, 1.0)] = 1e-6,
) -> Checkpoint:
    """Σ (F_t + floor) θ_t / Σ (F_t + floor), F_t the mean squared gradient of the loss of each of its task's samples.

    The paper takes the expectation over labels as the model would draw them, this takes the labels that there are; and
    FusionBench squares the gradient of a batch, not of each sample, and weighs every expert by 1 / ‖F_t‖ beside
    (`normalise`), without which a locked expert, whose gradients are enormous where it was shrunk, takes the merge
    over. It costs a forward and a backward pass for each sample, in float32, and every expert's F in memory.

    Args:
        view: The experts and labelled samples of their tasks.
        samples: Of each task; all where there are fewer.
        normalise: Whether every expert counts alike, whatever the size of its gradients.
        floor: Where no loss minds, the mean of the experts is taken.
    """
    held = {name: set(experts) for name, experts in holders(view)}
    minded = {}
    for task in view.experts:
        names = [name for name, tasks in held.items() if task in tasks]
        found = _information(view, task, samples).only(names)
        size = sum(float(found[name].double().square().sum()) for name in names) ** 0.5 if normalise else 1.0
        minded[task] = (found, 1 / (size + floor) if normalise else 1.0)

    def merge(name: str, experts: dict[str, Checkpoint], dtype: torch.dtype) -> Tensor:
        top = bottom = torch.zeros(())
        for task, expert in experts.items():
            information, weight = minded[task]
            counts = weight * (information[name].to(torch.float64) + floor)
            top, bottom = top + counts * expert[name].to(torch.float64), bottom + counts
        mean = torch.stack([expert[name].to(torch.float64) for expert in experts.values()]).mean(0)
        return torch.where(bottom > 0, top / torch.where(bottom > 0, bottom, 1.0), mean).to(dtype)

    return without_base(view, merge)


def _information(view: MergerView, task: str, samples: int) -> Checkpoint:
    """The diagonal of the Fisher information under the expert's names; zeros for what is not trained."""
    expert = view.experts[task].to(torch.float32)
    with torch.random.fork_rng(devices=[]):  # transformers may initialise before it loads
        network = expert.module(torch.float32)
    parameters = list(network.parameters())
    sums = [torch.zeros_like(parameter, dtype=torch.float64) for parameter in parameters]
    inputs, labels = view.samples(task, samples)
    for row in range(len(labels)):
        one = {key: value[row : row + 1] for key, value in inputs.items()}, labels[row : row + 1]
        gradients = torch.autograd.grad(view.loss(task, network, one), parameters, allow_unused=True)
        for total, gradient in zip(sums, gradients, strict=True):
            if gradient is not None:
                total += gradient.double().square()
    with torch.no_grad():
        for parameter, total in zip(parameters, sums, strict=True):
            parameter.copy_(total / len(labels))
        for buffer in network.buffers():
            buffer.zero_()
    return expert.trained(network)
