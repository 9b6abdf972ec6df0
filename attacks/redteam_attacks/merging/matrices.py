"""The frame of mergers that take a matrix as a matrix: what becomes of other tensors, and one in memory at a time."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from redteam.checkpoint import Checkpoint, is_finite
from redteam.views import MergerView
from redteam_attacks.merging.holders import onto_base


@dataclass(frozen=True)
class TaskVectors:
    """The task vectors of one tensor in float64, each computed when it is reached, so that one is in memory at a time.

    Attributes:
        tasks: Whose, in order of their names.
        shape: Of each.
        read: Gives one from its task; it may be overwritten.
        name: Of the tensor.
    """

    tasks: tuple[str, ...]
    shape: tuple[int, ...]
    read: Callable[[str], Tensor]
    name: str = ""

    def __iter__(self) -> Iterator[Tensor]:
        return map(self.read, self.tasks)

    def __len__(self) -> int:
        return len(self.tasks)

    def sum(self) -> Tensor:
        """Σ τ."""
        first, *others = self.tasks
        total = self.read(first)
        for task in others:
            total += self.read(task)
        return total

    def mean(self) -> Tensor:
        """Σ τ / T."""
        return self.sum() / len(self)

    def are_matrices(self, *, longest: int | None = None) -> bool:
        """Whether they have two axes, each at least as long as there are tasks and shorter than `longest`."""
        return len(self.shape) == 2 and min(self.shape) >= len(self) and max(self.shape) < (longest or torch.inf)


def by_matrices(
    view: MergerView,
    formula: Callable[[TaskVectors], Tensor],
    *,
    coefficient: float = 1.0,
    longest: int | None = None,
) -> Checkpoint:
    """θ₀ + λ times a formula of the task vectors of each matrix, their mean for every other tensor; rounded once.

    Vectors, numbers, convolutions and the stacked experts of a mixture are averaged, as all releases do with what has
    not two axes; so is a matrix with fewer rows or columns than there are experts, which has no rank to share out.

    Args:
        view: The experts and the base.
        formula: Gives the change of a matrix `[rows, columns]`, with at least as many of each as there are experts.
        coefficient: λ, of the means as well.
        longest: The side from which a matrix is averaged too; none by default.
    """

    def merge(name: str, experts: dict[str, Checkpoint]) -> Tensor:
        stored = view.base[name]
        if not is_finite(stored):  # a mask, of which no difference is a number
            return stored
        start = stored.to(torch.float64)
        vectors = task_vectors(name, start, experts)
        change = formula(vectors) if vectors.are_matrices(longest=longest) else vectors.mean()
        return (start + coefficient * change).to(view.base.dtype(name))

    return onto_base(view, merge)


def task_vectors(name: str, start: Tensor, experts: Mapping[str, Checkpoint]) -> TaskVectors:
    """Those of a tensor that is `start`, in float64, in the base."""
    return TaskVectors(tuple(experts), tuple(start.shape), lambda task: experts[task][name].to(start) - start, name)
