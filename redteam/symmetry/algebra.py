"""Batched pieces of linear algebra on small square matrices, float64, that the tied fit is made of."""

from __future__ import annotations

import torch
from torch import Tensor

RANK = 1e-13
"""Singular values below this share of the largest count as zero."""


Spectrum = tuple[Tensor, Tensor]
"""Eigenvalues [B, n] and eigenvectors [B, n, n] of symmetric matrices."""


def closest_rotation(cross: Tensor) -> Tensor:
    """`U Vᵀ` of the singular value decomposition, [B, n, n]."""
    u, _, vh = torch.linalg.svd(cross)
    closest: Tensor = u @ vh
    return closest


def sylvester(b: Tensor, a: Tensor, rhs: Tensor) -> Tensor:
    """The smallest X with `B X + X A = rhs`, for symmetric non-negative A and B, each [B, n, n]."""
    return spectral_sylvester(spectrum(b), spectrum(a), rhs)


def spectrum(symmetric: Tensor) -> Spectrum:
    """Of symmetric matrices, [B, n, n]."""
    values, vectors = torch.linalg.eigh(symmetric)
    return values, vectors


def spectral_sylvester(b: Spectrum, a: Spectrum, rhs: Tensor) -> Tensor:
    """The same for the spectra of B and A."""
    (beta, u), (alpha, v) = b, a
    total = beta[:, :, None] + alpha[:, None, :]
    seen = total > RANK * total.amax((-2, -1), keepdim=True)
    solution: Tensor = u @ torch.where(seen, (u.mT @ rhs @ v) / total, 0.0) @ v.mT
    return solution


def pseudo_inverse(gram: Tensor) -> Tensor:
    """Of symmetric non-negative matrices, of whose eigenvalues those that are rounding count as zero."""
    values, vectors = torch.linalg.eigh(gram)
    inverse = torch.where(values > RANK * values.amax(-1, keepdim=True), 1 / values, 0.0)
    pseudo: Tensor = (vectors * inverse[:, None, :]) @ vectors.mT
    return pseudo


def complete(matrix: Tensor) -> Tensor:
    """Singular matrices with their zero singular values put to the geometric mean of the others (1 if all are)."""
    short = ~invertible(matrix)
    if not bool(short.any()):
        return matrix
    u, s, vh = torch.linalg.svd(matrix[short])
    kept = s > RANK * s.amax(-1, keepdim=True)
    mean = torch.exp(torch.where(kept, s, 1.0).log().sum(-1, keepdim=True) / kept.sum(-1, keepdim=True).clamp(min=1))
    completed = matrix.clone()
    completed[short] += (u * torch.where(kept, 0.0, mean)[:, None, :]) @ vh
    return completed


def inverse(matrix: Tensor) -> Tensor:
    """The inverse; NaN where there is none, so that a cost computed from it is never accepted."""
    inverse, singular = torch.linalg.inv_ex(matrix)
    return torch.where((singular == 0)[:, None, None], inverse, torch.nan)


def invertible(matrix: Tensor) -> Tensor:
    """[B], whether the condition number (in the 1-norm) leaves digits."""
    sizes = [x.abs().sum(-2).amax(-1) for x in (matrix, inverse(matrix))]
    return sizes[0] * sizes[1] < 1 / RANK


def trace(matrix: Tensor) -> Tensor:
    """[B], the sum of the diagonal."""
    return matrix.diagonal(dim1=-2, dim2=-1).sum(-1)
