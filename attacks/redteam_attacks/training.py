"""Gradient descent for the attacks that have data: AdamW on labelled samples, the victim's head frozen."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Annotated

import numpy as np
import torch
from torch import Tensor, nn

from redteam.checkpoint import Checkpoint, own_tensors, shared_tensors
from redteam.plugins.settings import Range
from redteam.tasks import Batch
from redteam.views import AttackerView

Steps = Annotated[int, Range(1, 100_000, log=True)]
Rate = Annotated[float, Range(1e-6, 1e-1, log=True)]
Size = Annotated[int, Range(1, 4096, log=True)]
Epsilon = Annotated[float, Range(1e-12, 1.0, log=True)]

Shares = Callable[[np.random.Generator], Sequence[float]]
"""At which points c of the path from the base (0) to the weights (1) a step looks, drawn anew for each."""

_WARMUP = 0.1  # share of the steps in which the rate rises, before it falls to zero along a half cosine
_LARGEST_GRADIENT = 1.0


@dataclass(frozen=True)
class Budget:
    """What training may spend.

    Attributes:
        steps: Optimizer steps.
        rate: The highest learning rate.
        batch: Samples to a step; all where there are fewer.
        epsilon: AdamW's; as large as here, weights with small gradients hardly move, and experts merge better.
    """

    steps: int
    rate: float
    batch: int
    epsilon: float = 1e-3


def at_the_weights(_: np.random.Generator) -> Sequence[float]:
    """Plain training: the loss is that of the weights."""
    return (1.0,)


def train(view: AttackerView, start: Checkpoint, budget: Budget, *, shares: Shares = at_the_weights) -> Checkpoint:
    """The start after training on all labelled samples that are granted, in its own names and dtypes.

    Trained is what start and base share, that is, what a merge takes; the rest (the head) stays as it is, bit by bit.
    Weights are held in float32, whatever they are stored in. There is no weight decay, which would pull towards zero
    and not towards the base, and no dropout.

    Args:
        view: Grants the base, samples and the loss; counts steps.
        start: Where training starts.
        budget: What it may spend.
        shares: The loss of a step is the mean over θ₀ + c (θ − θ₀) for these c.
    """
    shared = shared_tensors(start, view.anchor)
    with torch.random.fork_rng(devices=[]):  # transformers may initialise before it loads
        module, origin, learned = _networks(start, view.anchor)
    optimizer = torch.optim.AdamW(learned, lr=budget.rate, eps=budget.epsilon, weight_decay=0.0, foreach=False)
    batches = _batches(view.samples(), budget.batch, view.generator("batches"))
    points = view.generator("points of the path")
    for index in view.steps(budget.steps):
        for group in optimizer.param_groups:
            group["lr"] = budget.rate * _schedule(index, budget.steps)
        optimizer.zero_grad()
        _slopes(view, module, next(batches), (learned, origin), shares(points))
        nn.utils.clip_grad_norm_(learned, _LARGEST_GRADIENT, foreach=False)
        optimizer.step()
    trained = start.trained(module)
    return start.replace({name: trained[name] for name in shared})


def _networks(start: Checkpoint, anchor: Checkpoint) -> tuple[nn.Module, list[Tensor], list[nn.Parameter]]:
    """The network, where the base has the parameters that are to be learned, and these; the others are frozen.

    Networks name their parameters unlike checkpoints, so that what belongs to the task alone is found by marking it.
    """
    own = {name: start[name] for name in own_tensors(start, anchor) if start.dtype(name).is_floating_point}
    module = start.module(torch.float32)
    marked = dict(start.replace({n: t.float() + 1 for n, t in own.items()}).module(torch.float32).named_parameters())
    base = start.replace({name: anchor[name] for name in shared_tensors(start, anchor)})
    there = dict(base.module(torch.float32).named_parameters())
    for name, parameter in module.named_parameters():
        parameter.requires_grad_(torch.equal(parameter.detach(), marked[name].detach()))
    names = [name for name, parameter in module.named_parameters() if parameter.requires_grad]
    found = dict(module.named_parameters())
    return module, [there[name].detach() for name in names], [found[name] for name in names]


def _slopes(
    view: AttackerView,
    module: nn.Module,
    batch: Batch,
    ends: tuple[list[nn.Parameter], list[Tensor]],
    shares: Sequence[float],
) -> None:
    """Adds up the gradient of the mean loss at points of the path, with respect to its end, where it leaves θ."""
    learned, origin = ends
    kept = [parameter.detach().clone() for parameter in learned]
    for share in shares:
        _set(learned, [end if share == 1 else torch.lerp(o, end, share) for o, end in zip(origin, kept, strict=True)])
        with torch.enable_grad():
            (view.loss(module, batch) * (share / len(shares))).backward()
    _set(learned, kept)


def _set(parameters: list[nn.Parameter], values: list[Tensor]) -> None:
    with torch.no_grad():
        for parameter, value in zip(parameters, values, strict=True):
            parameter.copy_(value)


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
    """The share of the rate that is due: a linear rise, then a half cosine down to zero."""
    warmup = _WARMUP * steps
    if index + 1 < warmup:
        return (index + 1) / warmup
    return (1 + math.cos(math.pi * max(0.0, index - warmup) / max(1.0, steps - warmup))) / 2
