"""Singular vectors of matrices that may be long, by the Gram matrix of their shorter side."""

import torch
from torch import Tensor


def short_side(matrix: Tensor, *, square: float = 0.0) -> tuple[Tensor, Tensor]:
    """Squared singular values `[k]`, largest first, and the singular vectors `[short, k]` of the shorter side.

    What is zero within rounding is left out, so that nothing hangs on the vectors that a solver finds for it. In
    float64 the loss of digits by squaring stays below what weights in float32 lost by being stored.

    Args:
        matrix: `[rows, columns]`, float64.
        square: The squared norm of what it was left over from, beside which it may be nothing but rounding.
    """
    gram = matrix.mT @ matrix if matrix.shape[0] >= matrix.shape[1] else matrix @ matrix.mT
    values, vectors = torch.linalg.eigh(gram)
    found = values > max(float(values.max()), square) * max(matrix.shape) * torch.finfo(matrix.dtype).eps
    return values[found].flip(0), vectors[:, found].flip(1)


def leading(matrix: Tensor, count: int, *, square: float = 0.0) -> tuple[Tensor, Tensor, Tensor]:
    """The vectors `[rows, k]` and `[columns, k]` on both sides of the largest singular values `[k]`, between them.

    Args:
        matrix: `[rows, columns]`, float64.
        count: k, or the rank if that is less.
        square: As in `short_side`.
    """
    values, vectors = short_side(matrix, square=square)
    size, vectors = values[:count].sqrt(), vectors[:, :count]
    if matrix.shape[0] >= matrix.shape[1]:
        return matrix @ vectors / size, size, vectors
    return vectors, size, matrix.mT @ vectors / size


def truncated(matrix: Tensor, count: int) -> Tensor:
    """The nearest matrix whose rank is `count` at most."""
    vectors = short_side(matrix)[1][:, :count]
    if matrix.shape[0] >= matrix.shape[1]:
        return (matrix @ vectors) @ vectors.mT
    return vectors @ (vectors.mT @ matrix)


def flattened(matrix: Tensor) -> Tensor:
    """The matrix with their mean in the place of its singular values; those that are zero count and stay."""
    values, vectors = short_side(matrix)
    size = values.sqrt()
    scaled = vectors * (size.sum() / min(matrix.shape) / size)
    if matrix.shape[0] >= matrix.shape[1]:
        return (matrix @ scaled) @ vectors.mT
    return vectors @ (scaled.mT @ matrix)


def whitened(left: Tensor, size: Tensor, right: Tensor) -> Tensor:
    """P diag(size) Qᵀ, P and Q the nearest matrices with orthonormal columns.

    Where columns depend on each other, P and Q are the nearest of that rank, so that copies share what one would have.

    Args:
        left: `[rows, k]`, k ≤ rows.
        size: `[k]`.
        right: `[columns, k]`, k ≤ columns.
    """
    if not len(size):
        return left @ right.mT
    return (left @ ((_root(left) * size) @ _root(right))) @ right.mT


def _root(columns: Tensor) -> Tensor:
    """(AᵀA)^(−1/2), on the span of its rows."""
    values, vectors = short_side(columns)
    return (vectors / values.sqrt()) @ vectors.mT
