"""Gradient descent from one checkpoint to another: AdamW on a loss, for attacks, defenses and distillation alike."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import chain

import numpy as np
import torch
from torch import Tensor, nn

from redteam.checkpoint import Checkpoint, shared_tensors
from redteam.checkpoint.modules import parameter_names, parameters_of
from redteam.errors import BadInput
from redteam.memory import require
from redteam.tasks import Batch
from redteam.tasks.task import lengths_of, trimmed

Loss = Callable[[nn.Module, Batch], Tensor]
"""A scalar of a network and a batch."""

Points = Callable[[np.random.Generator], Sequence[tuple[float, float]]]
"""At which points c of the path from its origin (0) to the weights (1) a step looks, each with its weight w."""

Penalty = Callable[[Sequence[nn.Parameter], Sequence[Tensor]], Tensor]
"""A scalar of the parameters that are trained and of where the base has them."""

_WARMUP = 0.1  # share of the steps in which the rate rises, before it falls to zero along a half cosine
_LARGEST_GRADIENT = 1.0
AT_A_TIME = 8
"""Batches that are drawn at a time and then sorted by length."""
BYTES = 20
"""What training takes for each weight: itself, its gradient, AdamW's two means and θ₀, in float32."""


@dataclass(frozen=True)
class Budget:
    """What training may spend.

    Attributes:
        steps: Optimizer steps.
        rate: The highest learning rate.
        batch: Samples to a step; all where there are fewer.
        epsilon: AdamW's; as large as here, weights with small gradients hardly move, and experts merge better.
        warmup: Share of the steps in which the rate rises.
        clip: The largest norm of the gradient.
    """

    steps: int
    rate: float
    batch: int
    epsilon: float = 1e-3
    warmup: float = _WARMUP
    clip: float = _LARGEST_GRADIENT


def at_the_weights(_: np.random.Generator) -> Sequence[tuple[float, float]]:
    """Plain training: the loss is that of the weights."""
    return ((1.0, 1.0),)


def train(
    start: Checkpoint,
    base: Checkpoint,
    budget: Budget,
    *,
    batches: Iterator[Batch],
    loss: Loss,
    generator: np.random.Generator,
    points: Points = at_the_weights,
    origin: Checkpoint | None = None,
    penalty: Penalty | None = None,
    penalised: Iterable[str] | None = None,
    names: Iterable[str] | None = None,
    reach: float | None = None,
    relatives: Sequence[Checkpoint] = (),
    steps: Iterable[int] | None = None,
) -> Checkpoint:
    """The start after training, in its own names and dtypes; the loss of a step is Σ w L(o + c (θ − o)) + penalty.

    Weights are held in float32, whatever they are stored in. There is no weight decay, which would pull towards zero
    and not towards the base, and no dropout. What is not trained stays as it is, bit by bit.

    Args:
        start: Where training starts.
        base: θ₀, which says what is trained, and what penalty and reach are counted from.
        budget: What training may spend.
        batches: One batch a step.
        loss: What is minimised.
        generator: What `points` draws from.
        points: Pairs (c, w), drawn anew for each step.
        origin: o, where the path begins: θ₀ by default, or other weights of the start's network.
        penalty: Added to the loss of every step, at the weights themselves.
        penalised: Which of the tensors that are trained it is handed; all by default.
        names: Which tensors are trained; by default those that start and base share, that is, what a merge takes. A
            tensor that the base lacks (a head) starts and stands in for its own θ₀, so that it asks for c = 1.
        reach: How far θ may lie from θ₀, tensor by tensor, as a multiple of the farthest relative's distance; anywhere
            by default.
        relatives: Fine-tuned from the same base; with a reach and none of them, weights may go anywhere.
        steps: The numbers of the steps, where somebody counts them.

    Raises:
        BadInput: If a tensor that the base lacks is to be trained at another point than the weights, or none is left.
        NotEnoughMemory: If the run may not take so much.
    """
    require(BYTES * start.weights, f"Training a network of {start.weights / 1e6:.3g} million weights")
    shared = shared_tensors(start, base)
    chosen = tuple(dict.fromkeys(shared if names is None else names))
    alone = sorted(set(chosen) - set(shared))
    with torch.random.fork_rng(devices=[]):  # transformers may initialise before it loads
        body = _Body.of(start, base, chosen)
        held = body.those_of(start, penalised)
        limits = None if reach is None else [reach * size for size in _sizes(body, start, base, relatives)]
        behind = body.origin if origin is None else _values(start, origin, body.names)
    learned = body.learned
    # Fused, since the second moments of rows that are seldom touched decay to subnormals, which are slow otherwise.
    optimizer = torch.optim.AdamW(learned, lr=budget.rate, eps=budget.epsilon, weight_decay=0.0, fused=True)
    body.hold(limits)
    for index in range(budget.steps) if steps is None else steps:
        for group in optimizer.param_groups:
            group["lr"] = budget.rate * _schedule(index, budget.steps, budget.warmup)
        optimizer.zero_grad()
        where = points(generator)
        if alone and any(share != 1 for share, _ in where):
            raise BadInput(f"The base lacks {alone[0]!r}, so that no path leads there; train it at the weights alone.")
        _slopes(loss, body, behind, next(batches), where)
        if penalty is not None:
            with torch.enable_grad():
                penalty([learned[i] for i in held], [body.origin[i] for i in held]).backward()
        nn.utils.clip_grad_norm_(learned, budget.clip, foreach=False)
        optimizer.step()
        body.hold(limits)
    trained = start.trained(body.module)
    return start.replace({name: trained[name] for name in chosen})


def endless(samples: Batch, size: int, draws: np.random.Generator) -> Iterator[Batch]:
    """Passes over some samples without end, each in an order of its own; all in one batch where there are fewer."""
    inputs, labels = samples
    size = min(size, len(labels))
    at_a_time = 1 if lengths_of(inputs) is None else AT_A_TIME
    while True:
        order = torch.from_numpy(draws.permutation(len(labels)))
        drawn = torch.split(order, size * at_a_time)
        large = (({name: value[rows] for name, value in inputs.items()}, labels[rows]) for rows in drawn)
        for batch in by_length(large, size, draws):
            if len(batch[1]) == size:
                yield batch


def in_turn(pools: Sequence[Iterator[Batch]]) -> Iterator[Batch]:
    """A batch of each pool, in their order, again and again."""
    return chain.from_iterable(zip(*pools, strict=True))


def by_length(large: Iterable[Batch], size: int, draws: np.random.Generator) -> Iterator[Batch]:
    """Batches of texts of about one length, without the padding: training computes what padding there is, too.

    Args:
        large: Batches of `AT_A_TIME` times the size, each of which is sorted, split, and given out in random order.
            Where inputs have no attention mask they are split in their order.
        size: Samples to a batch; the last of a large one may have fewer.
        draws: What the order is drawn from.
    """
    for inputs, labels in large:
        lengths = lengths_of(inputs)
        order = torch.arange(len(labels)) if lengths is None else lengths.argsort(stable=True)
        parts = order.split(size)
        for place in range(len(parts)) if lengths is None else draws.permutation(len(parts)):
            rows = parts[place]
            yield trimmed({name: value[rows] for name, value in inputs.items()}), labels[rows]


def in_pieces(batch: Batch, draws: np.random.Generator) -> list[Batch]:
    """A batch that is only looked at, in `AT_A_TIME` parts as `by_length` makes them."""
    return list(by_length([batch], math.ceil(len(batch[1]) / AT_A_TIME), draws))


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
    def of(cls, start: Checkpoint, base: Checkpoint, chosen: Sequence[str]) -> _Body:
        module = start.module(torch.float32)
        found, names_of = dict(module.named_parameters()), parameter_names(start)
        frozen = {names_of[name] for name in set(start) - set(chosen) if name in names_of}
        for name, parameter in found.items():
            parameter.requires_grad_(name not in frozen)
        names = tuple(name for name, parameter in found.items() if parameter.requires_grad)
        if not names:
            raise BadInput("There is nothing to train; name tensors of the network, or a base that shares some.")
        return cls(module, names, [found[name] for name in names], _values(start, base, names))

    def those_of(self, start: Checkpoint, names: Iterable[str] | None) -> list[int]:
        """The places of the parameters that hold one of some tensors."""
        if names is None:
            return list(range(len(self.names)))
        names_of = parameter_names(start)
        held = {names_of[name] for name in names}
        return [place for place, name in enumerate(self.names) if name in held]

    def hold(self, limits: Sequence[float] | None) -> None:
        """Brings what lies farther from the base than it may straight back to where it may."""
        if limits is None:
            return
        for parameter, origin, limit in zip(self.learned, self.origin, limits, strict=True):
            away = parameter.detach() - origin
            far = float(away.norm())
            if far > limit:
                _set([parameter], [origin + away * (limit / far)])


def _values(start: Checkpoint, other: Checkpoint, names: Iterable[str]) -> list[Tensor]:
    """Where another checkpoint has some parameters of the start's network; the start's own, where it lacks them."""
    there = parameters_of(start.replace({name: other[name] for name in shared_tensors(start, other)}))
    return [there[name] for name in names]


def _sizes(body: _Body, start: Checkpoint, base: Checkpoint, relatives: Sequence[Checkpoint]) -> list[float]:
    """How far the relatives lie from the base, tensor by tensor; without any, whatever is far enough."""
    names, sizes = shared_tensors(start, base), [0.0 if relatives else math.inf] * len(body.names)
    for relative in relatives:
        held = set(shared_tensors(relative, base))
        there = parameters_of(start.replace({n: relative[n] if n in held else base[n] for n in names}))
        away = [float((there[name] - origin).norm()) for name, origin in zip(body.names, body.origin, strict=True)]
        sizes = [max(pair) for pair in zip(sizes, away, strict=True)]
    return sizes


def _slopes(
    loss: Loss, body: _Body, behind: Sequence[Tensor], batch: Batch, points: Sequence[tuple[float, float]]
) -> None:
    """Adds up the gradient of the loss at points of the path, with respect to its end, where it leaves θ.

    Args:
        loss: What is minimised.
        body: Holds θ.
        behind: Where the path begins.
        batch: What the loss is taken of.
        points: Pairs (c, w).
    """
    learned = body.learned
    moved = any(share != 1 for share, _ in points)  # else nothing is to be put back, which takes time in large networks
    kept = [parameter.detach().clone() for parameter in learned] if moved else []
    for share, weight in points:
        if moved:
            path = zip(behind, kept, strict=True)
            _set(learned, [end if share == 1 else torch.lerp(start, end, share) for start, end in path])
        with torch.enable_grad():
            (loss(body.module, batch) * (share * weight)).backward()
    if moved:
        _set(learned, kept)


def _set(parameters: list[nn.Parameter], values: list[Tensor]) -> None:
    with torch.no_grad():
        for parameter, value in zip(parameters, values, strict=True):
            parameter.copy_(value)


def _schedule(index: int, steps: int, share: float) -> float:
    """The share of the rate that is due: a linear rise, then a half cosine down to zero."""
    warmup = share * steps
    if index + 1 < warmup:
        return (index + 1) / warmup
    return (1 + math.cos(math.pi * max(0.0, index - warmup) / max(1.0, steps - warmup))) / 2
