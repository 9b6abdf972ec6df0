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


def train(
    view: AttackerView,
    start: Checkpoint,
    budget: Budget,
    *,
    shares: Shares = at_the_weights,
    reach: float | None = None,
) -> Checkpoint:
    """The start after training on all labelled samples that are granted, in its own names and dtypes.

    Trained is what start and base share, that is, what a merge takes; the rest (the head) stays as it is, bit by bit.
    Weights are held in float32, whatever they are stored in. There is no weight decay, which would pull towards zero
    and not towards the base, and no dropout.

    Args:
        view: Grants the base, samples and the loss, and companions if there is a reach; counts steps.
        start: Where training starts.
        budget: What it may spend.
        shares: The loss of a step is the mean over θ₀ + c (θ − θ₀) for these c.
        reach: How far θ may lie from θ₀, tensor by tensor, as a multiple of the farthest companion's distance; anywhere
            by default.
    """
    shared = shared_tensors(start, view.anchor)
    with torch.random.fork_rng(devices=[]):  # transformers may initialise before it loads
        body = _Body.of(start, view.anchor)
        limits = None if reach is None else [reach * size for size in _sizes(body, start, view)]
    learned = body.learned
    optimizer = torch.optim.AdamW(learned, lr=budget.rate, eps=budget.epsilon, weight_decay=0.0, foreach=False)
    batches = _batches(view.samples(), budget.batch, view.generator("batches"))
    points = view.generator("points of the path")
    body.hold(limits)
    for index in view.steps(budget.steps):
        for group in optimizer.param_groups:
            group["lr"] = budget.rate * _schedule(index, budget.steps)
        optimizer.zero_grad()
        _slopes(view, body, next(batches), shares(points))
        nn.utils.clip_grad_norm_(learned, _LARGEST_GRADIENT, foreach=False)
        optimizer.step()
        body.hold(limits)
    trained = start.trained(body.module)
    return start.replace({name: trained[name] for name in shared})


@dataclass(frozen=True)
class _Body:
    """A network in float32 with what is trained of it; the rest is frozen.

    Attributes:
        module: The network.
        names: What it calls the parameters that are trained.
        learned: These parameters.
        origin: Where the base has them.
    """

    module: nn.Module
    names: tuple[str, ...]
    learned: list[nn.Parameter]
    origin: list[Tensor]

    @classmethod
    def of(cls, start: Checkpoint, anchor: Checkpoint) -> _Body:
        """Trains what start and base share.

        Networks name their parameters unlike checkpoints, so that what belongs to the task alone is found by marking.
        """
        own = {name: start[name] for name in own_tensors(start, anchor) if start.dtype(name).is_floating_point}
        module = start.module(torch.float32)
        found = dict(module.named_parameters())
        marked = _parameters(start.replace({name: tensor.float() + 1 for name, tensor in own.items()}))
        for name, parameter in found.items():
            parameter.requires_grad_(torch.equal(parameter.detach(), marked[name]))
        names = tuple(name for name, parameter in found.items() if parameter.requires_grad)
        there = _parameters(start.replace({name: anchor[name] for name in shared_tensors(start, anchor)}))
        return cls(module, names, [found[name] for name in names], [there[name] for name in names])

    def hold(self, limits: Sequence[float] | None) -> None:
        """Brings what lies farther from the base than it may straight back to where it may."""
        if limits is None:
            return
        for parameter, origin, limit in zip(self.learned, self.origin, limits, strict=True):
            away = parameter.detach() - origin
            far = float(away.norm())
            if far > limit:
                _set([parameter], [origin + away * (limit / far)])


def _parameters(checkpoint: Checkpoint) -> dict[str, Tensor]:
    return {name: parameter.detach() for name, parameter in checkpoint.module(torch.float32).named_parameters()}


def _sizes(body: _Body, start: Checkpoint, view: AttackerView) -> list[float]:
    """How far the companions lie from the base, tensor by tensor; without any, whatever is far enough."""
    names, sizes = shared_tensors(start, view.anchor), [0.0 if view.companions else math.inf] * len(body.names)
    for companion in view.companions.values():
        held = set(shared_tensors(companion, view.anchor))
        there = _parameters(start.replace({n: companion[n] if n in held else view.anchor[n] for n in names}))
        away = [float((there[name] - origin).norm()) for name, origin in zip(body.names, body.origin, strict=True)]
        sizes = [max(pair) for pair in zip(sizes, away, strict=True)]
    return sizes


def _slopes(view: AttackerView, body: _Body, batch: Batch, shares: Sequence[float]) -> None:
    """Adds up the gradient of the mean loss at points of the path, with respect to its end, where it leaves θ."""
    learned, kept = body.learned, [parameter.detach().clone() for parameter in body.learned]
    for share in shares:
        path = zip(body.origin, kept, strict=True)
        _set(learned, [end if share == 1 else torch.lerp(origin, end, share) for origin, end in path])
        with torch.enable_grad():
            (view.loss(body.module, batch) * (share / len(shares))).backward()
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
