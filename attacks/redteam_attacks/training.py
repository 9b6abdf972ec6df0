"""Gradient descent for the attacks that have data: `redteam.training` on what an attacker's view grants."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated

import numpy as np

from redteam.checkpoint import Checkpoint
from redteam.plugins.settings import Range
from redteam.training import Budget, Penalty, Points, at_the_weights, endless
from redteam.training import train as trained
from redteam.views import AttackerView

Steps = Annotated[int, Range(1, 100_000, log=True)]
Rate = Annotated[float, Range(1e-6, 1e-1, log=True)]
Size = Annotated[int, Range(1, 4096, log=True)]
Epsilon = Annotated[float, Range(1e-12, 1.0, log=True)]


def evenly(path: tuple[float, float]) -> Points:
    """One point of a range a step, drawn evenly."""

    def points(draws: np.random.Generator) -> Sequence[tuple[float, float]]:
        return ((path[0] + (path[1] - path[0]) * float(draws.random()), 1.0),)

    return points


def train(
    view: AttackerView,
    start: Checkpoint,
    budget: Budget,
    *,
    points: Points = at_the_weights,
    origin: Checkpoint | None = None,
    penalty: Penalty | None = None,
    reach: float | None = None,
) -> Checkpoint:
    """The start after training on all labelled samples that are granted; the head stays.

    Args:
        view: Grants the base, samples and the loss, and companions if there is a reach; counts steps.
        start: Where training starts.
        budget: What it may spend.
        points: As of `redteam.training.train`.
        origin: As there.
        penalty: As there.
        reach: How far θ may lie from θ₀, tensor by tensor, as a multiple of the farthest companion's distance; anywhere
            by default.
    """
    return trained(
        start,
        view.anchor,
        budget,
        batches=endless(view.samples(), budget.batch, view.generator("batches")),
        loss=view.loss,
        generator=view.generator("points of the path"),
        points=points,
        origin=origin,
        penalty=penalty,
        reach=reach,
        relatives=() if reach is None else tuple(view.companions.values()),
        steps=view.steps(budget.steps),
    )
