"""The matrix that treats each task's inputs as that task vector does, the inputs guessed from the task vectors."""

from collections.abc import Callable, Iterator

import torch
from torch import Tensor

from redteam_attacks.merging.matrices import TaskVectors

Solve = Callable[[Tensor, Tensor], Tensor]


def regressed(vectors: TaskVectors, weight: Callable[[str, Tensor], float], solve: Solve) -> Tensor:
    """(Σ c Δ G) · inverse(Σ c G) with G = ΔᵀΔ, which minimises Σ c ‖(W − Δ) Δᵀ‖².

    Where a row is longer than all columns of the task vectors together, the same is had from their inner products, so
    that a table of many tokens never costs tokens × tokens.

    Args:
        vectors: Δ by task, `[rows, columns]`, the last axis being what a layer reads.
        weight: c, from the task and its Δ.
        solve: Gives A · inverse(B) of a matrix A and a symmetric one B.
    """
    rows, columns = vectors.shape
    if columns > rows * len(vectors):
        scaled = list(_scaled(vectors, weight))
        stacked = torch.cat([root * vector for root, vector in scaled])
        target = torch.cat([root * (vector @ vector.mT) for root, vector in scaled], 1)
        return solve(target, stacked @ stacked.mT) @ stacked
    gram = target = torch.zeros(())
    for root, vector in _scaled(vectors, weight):
        own = root**2 * (vector.mT @ vector)
        gram, target = gram + own, target + vector @ own
    return solve(target, gram)


def _scaled(vectors: TaskVectors, weight: Callable[[str, Tensor], float]) -> Iterator[tuple[float, Tensor]]:
    for task, vector in zip(vectors.tasks, vectors, strict=True):
        yield weight(task, vector) ** 0.5, vector
