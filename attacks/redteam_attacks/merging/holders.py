"""Which experts hold which tensor, how much each of them counts, and the merge that is computed as it is read."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from typing import Annotated

import torch
from torch import Tensor

from redteam.checkpoint import Checkpoint
from redteam.plugins.settings import Range
from redteam.views import MergerView

Weights = Annotated[tuple[tuple[str, float], ...], Range(1e-6, 1e6)]
"""Pairs of a task and its weight, as in `weights=[[digits,2.0]]`. By task, since not every merge holds every expert;
tasks that are not named weigh 1, and names of tasks that are not merged go for nothing."""


def holders(view: MergerView) -> Iterator[tuple[str, dict[str, Checkpoint]]]:
    """Every tensor that can be merged, in order of its name, with the experts that have it in the base's shape.

    Experts come in order of their tasks' names, so that sums do not depend on the order in which they were collected.
    """
    for name, experts in view.shared():
        tasks = iter(view.experts.items())  # experts keep the view's order, so that one pass finds them all
        found = {next(task for task, mine in tasks if mine is expert): expert for expert in experts}
        yield name, dict(sorted(found.items()))


def onto_base(view: MergerView, merge: Callable[[str, dict[str, Checkpoint]], Tensor]) -> Checkpoint:
    """The base with every tensor that can be merged computed when it is read, so that one is in memory at a time.

    Args:
        view: The experts and the base.
        merge: Gives a tensor from its name and the experts that hold it, in the base's shape and dtype.
    """
    held = dict(holders(view))
    merged = Checkpoint.computed(view.base.outline(held), lambda name: merge(name, held[name]))
    return view.base.replace(merged)


def weight_of(tasks: Iterable[str], weights: Weights, like: Tensor) -> Tensor:
    """The weights of some experts as float64 `[T, 1, …]`, to be multiplied with stacked tensors `[T, …]`."""
    given = dict(weights)
    numbers = torch.tensor([given.get(task, 1.0) for task in tasks], dtype=torch.float64, device=like.device)
    return numbers.reshape(-1, *[1] * like.ndim)
