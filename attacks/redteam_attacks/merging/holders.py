"""Which experts hold which tensor, how much each of them counts, and the merge that is computed as it is read."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from functools import reduce
from typing import Annotated

import torch
from torch import Tensor

from redteam.checkpoint import Checkpoint
from redteam.errors import Inapplicable
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


def without_base(view: MergerView, merge: Callable[[str, dict[str, Checkpoint], torch.dtype], Tensor]) -> Checkpoint:
    """What the experts share, each tensor computed when it is read; it has the config of the first expert.

    Args:
        view: The experts.
        merge: Gives a tensor from its name, the experts that hold it and the dtype that it has to have.
    """
    held = dict(holders(view))
    outline = {n: (next(iter(experts.values())).shape(n), _dtype(held, n)) for n, experts in held.items()}
    first = next(iter(view.experts.values()))
    return Checkpoint.computed(outline, lambda name: merge(name, held[name], _dtype(held, name)), first.config)


def by_vectors(view: MergerView, formula: Callable[[str, tuple[str, ...], Tensor], Tensor]) -> Checkpoint:
    """θ₀ + a formula of the task vectors of each tensor, in float64, rounded once.

    Args:
        view: The experts and the base.
        formula: Gives the change of a tensor from its name, the tasks that hold it and their vectors `[T, …]`, which it
            may overwrite. A number comes as a vector of one entry, and a tensor without entries does not come.
    """

    def merge(name: str, experts: dict[str, Checkpoint]) -> Tensor:
        start = view.base[name].to(torch.float64)
        start = start.reshape(start.shape or (1,))
        if not start.numel():
            return view.base[name]
        deltas = torch.stack([expert[name].to(torch.float64) - start for expert in experts.values()])
        merged = (start + formula(name, tuple(experts), deltas)).to(view.base.dtype(name))
        return merged.reshape(view.base.shape(name))

    return onto_base(view, merge)


def require_experts(view: MergerView, merger: str, count: int, *, more: bool = False) -> None:
    """Refuses a merge of another number of experts.

    Args:
        view: The experts.
        merger: Its name, for the sentence.
        count: How many it takes.
        more: Whether it takes more as well.

    Raises:
        Inapplicable: If there are fewer, or more where that is not allowed.
    """
    have = len(view.experts)
    if have < count or (have > count and not more):
        wanted = f"{'at least' if more else 'exactly'} {count} expert{'s' * (count > 1)}"
        raise Inapplicable(
            f"{merger} merges {wanted}{' into the base' * (count == 1)} and was given {have} "
            f"({', '.join(sorted(view.experts))}); {'add' if have < count else 'drop'} some or take another merger."
        )


def weight_of(tasks: Iterable[str], weights: Weights, like: Tensor) -> Tensor:
    """The weights of some experts as float64 `[T, 1, …]`, to be multiplied with stacked tensors `[T, …]`."""
    given = dict(weights)
    numbers = torch.tensor([given.get(task, 1.0) for task in tasks], dtype=torch.float64, device=like.device)
    return numbers.reshape(-1, *[1] * like.ndim)


def _dtype(held: Mapping[str, Mapping[str, Checkpoint]], name: str) -> torch.dtype:
    found = {expert.dtype(name) for expert in held[name].values()}
    if len(found) == 1:
        return found.pop()
    # torch promotes no float of 8 bits
    narrow = {dtype for dtype in found if dtype.is_floating_point and dtype.itemsize == 1}
    return reduce(torch.promote_types, {*(found - narrow), *([torch.float32] if narrow else [])})
