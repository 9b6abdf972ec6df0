"""Matrices that may be long, rebuilt from their singular vectors."""

from torch import Tensor

from redteam.checkpoint.singular import leading, short_side

__all__ = ["flattened", "leading", "short_side", "truncated", "whitened"]


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
