"""Gradient descent for the attacks that have data: AdamW on labelled samples, the victim's head frozen."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import torch
from torch import nn

from redteam.checkpoint import Checkpoint
from redteam.tasks import Batch
from redteam.views import AttackerView

_WARMUP = 0.1  # share of the steps in which the rate rises, before it falls to zero along a half cosine
_LARGEST_GRADIENT = 1.0


@dataclass(frozen=True)
class Budget:
    """What training may spend.

    Attributes:
        steps: Optimizer steps.
        rate: The highest learning rate.
        batch: Samples to a step; all where there are fewer.
        decay: AdamW's weight decay.
    """

    steps: int
    rate: float
    batch: int
    decay: float = 0.01


def train(
    view: AttackerView, start: Checkpoint, budget: Budget, *, origin: Checkpoint | None = None, points: int = 1
) -> Checkpoint:
    """The start after training on all labelled samples that are granted, in its own names and dtypes.

    Args:
        view: Grants samples and the loss; counts steps.
        start: Where training starts. What lies outside the network's body (the head) is frozen, since a merge wears the
            victim's own.
        budget: What it may spend.
        origin: With this, the loss is the mean over θ₀ + c (θ − θ₀), with θ₀ the origin and c = 1/points, 2/points,
            …, 1: the path that a merge takes.
        points: How many points of the path.
    """
    module = start.module(torch.float32)
    body = getattr(module, "base_model_prefix", "")
    for name, parameter in module.named_parameters():
        parameter.requires_grad_(not body or name.startswith(f"{body}.") or not hasattr(module, body))
    learned = [parameter for parameter in module.parameters() if parameter.requires_grad]
    if origin is None:
        anchors = [parameter.detach() for parameter in learned]
        points = 1
    else:
        there = dict(origin.module(torch.float32).named_parameters())
        anchors = [there[name].detach() for name, parameter in module.named_parameters() if parameter.requires_grad]
    optimizer = torch.optim.AdamW(learned, lr=budget.rate, weight_decay=budget.decay, foreach=False)
    batches = _batches(view.samples(), budget.batch, view.generator("batches"))
    for index in view.steps(budget.steps):
        for group in optimizer.param_groups:
            group["lr"] = budget.rate * _schedule(index, budget.steps)
        optimizer.zero_grad()
        _slopes(view, module, next(batches), learned, anchors, points)
        nn.utils.clip_grad_norm_(learned, _LARGEST_GRADIENT, foreach=False)
        optimizer.step()
    return start.trained(module)


def _slopes(
    view: AttackerView,
    module: nn.Module,
    batch: Batch,
    learned: list[nn.Parameter],
    anchors: list[torch.Tensor],
    points: int,
) -> None:
    """Adds up the gradient of the mean loss at the points of the path, with respect to its end."""
    ends = [parameter.detach().clone() for parameter in learned]
    for point in range(1, points + 1):
        share = point / points
        with torch.no_grad():
            for parameter, end, anchor in zip(learned, ends, anchors, strict=True):
                parameter.copy_(end if point == points else torch.lerp(anchor, end, share))
        with torch.enable_grad():
            (view.loss(module, batch) * share / points).backward()


def _batches(samples: Batch, size: int, draws: np.random.Generator) -> Iterator[Batch]:
    """Passes over the samples without end, each in an order of its own."""
    inputs, labels = samples
    size = min(size, len(labels))
    while True:
        order = torch.from_numpy(draws.permutation(len(labels)))
        for chosen in torch.split(order, size):
            if len(chosen) == size:
                yield {name: value[chosen] for name, value in inputs.items()}, labels[chosen]


def _schedule(index: int, steps: int) -> float:
    warmup = _WARMUP * steps
    if index + 1 < warmup:
        return (index + 1) / warmup
    return (1 + math.cos(math.pi * max(0.0, index - warmup) / max(1.0, steps - warmup))) / 2
