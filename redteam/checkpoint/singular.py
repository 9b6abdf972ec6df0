"""Singular vectors of matrices that may be long, by the Gram matrix of their shorter side."""

import torch
from torch import Tensor

from redteam.checkpoint.factors import Factors, split_evenly


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


def cut_out(delta: Tensor, rank: int) -> Factors:
    """The nearest product of a rank, split as mergekit-extract-lora does, with the signs of `split_evenly`.

    Args:
        delta: `[rows, columns]`, float64.
        rank: Of the factors, or the shorter side if that is less; what the matrix lacks of it is filled up with zeros.
    """
    return Factors(*split_evenly(*leading(delta, rank), min(rank, *delta.shape)))
