"""What the defenses that train have in common: their settings, and the engine's trainer on the owner's own data."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Annotated

from redteam.checkpoint import Checkpoint
from redteam.plugins.settings import Range
from redteam.tasks import Batch
from redteam.training import AT_A_TIME, Budget, Loss, Penalty, Points, at_the_weights, by_length, train
from redteam.views import DefenderView

Steps = Annotated[int, Range(1, 100_000, log=True)]
Rate = Annotated[float, Range(1e-6, 1e-1, log=True)]
Size = Annotated[int, Range(1, 4096, log=True)]
Epsilon = Annotated[float, Range(1e-12, 1.0, log=True)]
Share = Annotated[float, Range(0.0, 1.0)]


def trained(
    view: DefenderView,
    budget: Budget,
    *,
    start: Checkpoint | None = None,
    loss: Loss | None = None,
    points: Points = at_the_weights,
    penalty: Penalty | None = None,
    penalised: Iterable[str] | None = None,
) -> Checkpoint:
    """The victim trained on, all but its head, which the papers' own recipes freeze.

    Order and draws come from a fixed seed in place of the owner's key, since nothing here is a secret: whoever
    publishes the result has published what training found.

    Args:
        view: The victim, the base and training data.
        budget: What training may spend.
        start: What is trained on; the victim by default.
        loss: What is minimised; the victim's training loss by default.
        points: As of `redteam.training.train`.
        penalty: Likewise.
        penalised: Likewise.
    """
    fixed = view.seeded(0)
    return train(
        view.victim if start is None else start,
        view.base,
        budget,
        batches=_endless(fixed, budget.batch),
        loss=view.loss if loss is None else loss,
        generator=fixed.generator("points"),
        points=points,
        penalty=penalty,
        penalised=penalised,
        steps=view.steps(budget.steps),
    )


def _endless(view: DefenderView, size: int) -> Iterator[Batch]:
    """Passes over the training data without end, each in an order of its own."""
    turn = 0
    while True:
        yield from by_length(view.batches(size * AT_A_TIME, f"pass {turn}"), size, view.generator(f"order {turn}"))
        turn += 1
