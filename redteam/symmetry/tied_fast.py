"""The short way to the tied fit: Gram matrices of the stacks as they are, and nothing longer than n after that."""

from __future__ import annotations

import torch
from torch import Tensor

from redteam.symmetry.algebra import invertible, spectral_sylvester, spectrum
from redteam.symmetry.tied_robust import Fit, Grams, descend

_CALM = 1e3  # largest condition number of a row-scaled stack: its Gram matrix, of the square, keeps ten digits
_NEAR = 1.5  # a start of at most this many times the cost that no G can better lies at the foot of the right valley
_EXACT = 1e-10  # or of this share of the stacks' squared norms, where the lock comes off without a rest


def quick(left: Tensor, right: Tensor, left0: Tensor, right0: Tensor, limit: int) -> tuple[Fit, Tensor]:
    """The tied fit where that is easy.

    The start is the G that comes closest to `G left = left0` and `Gᵀ right0 = right` at once, for a balanced moving
    pair. The first steps take A and B from the target, which is where they end up but for the task vector.

    Returns:
        The fit, and for which heads, [B], it holds.
    """
    raw = Grams.of(left, right, left0, right0)
    base, back, size, calm = _balance(raw.a, raw.b)
    moving = Grams(base @ raw.a @ base.mT, back.mT @ raw.b @ back, raw.c @ base.mT, raw.d @ back, raw.norm)
    batch = len(left)
    values, vectors = spectrum(torch.cat([right0 @ right0.mT, left0 @ left0.mT]))
    b0, a0 = ((values[half], vectors[half]) for half in (slice(batch), slice(batch, None)))
    start = spectral_sylvester(b0, (size, torch.eye(left.shape[1]).to(size).expand_as(base)), moving.c + moving.d)
    here = moving.moved(start)
    before = here.costs()
    floor = raw.norm - ((moving.c.square() + moving.d.square()) / size[:, None, :]).sum((-2, -1))
    sure = calm & invertible(start) & (before <= _NEAR * floor.clamp(min=0) + _EXACT * raw.norm)

    matrix, after, steps = start.clone(), before.clone(), torch.zeros_like(sure, dtype=torch.int64)
    near = (b0[0][sure], b0[1][sure]), (a0[0][sure], a0[1][sure])
    matrix[sure], after[sure], steps[sure] = descend(start[sure], here[sure], limit, near)
    sure = sure & invertible(matrix)
    return Fit(matrix @ base, before.clamp(min=0), after.clamp(min=0), steps), sure


def _balance(a: Tensor, b: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """A gauge that brings two Gram matrices to the same diagonal, its inverse, that diagonal, and where it is safe.

    Rows are first scaled to equal length on both sides, which takes any diagonal off without an error; then, with
    `a = L Lᵀ` and `Lᵀ b L = V S² Vᵀ`, it is `S^½ Vᵀ L⁻¹`.
    """
    scale = (b.diagonal(dim1=-2, dim2=-1) / a.diagonal(dim1=-2, dim2=-1)).pow(0.25)
    scaled = (scale.isfinite() & (scale > 0)).all(-1)
    scale = torch.where(scaled[:, None], scale, 1.0)
    eye = torch.eye(a.shape[-1], dtype=a.dtype, device=a.device)
    lower, failed = torch.linalg.cholesky_ex(a * scale[:, :, None] * scale[:, None, :])
    fine = scaled & (failed == 0)
    lower = torch.where(fine[:, None, None], lower, eye)
    upper = torch.linalg.solve_triangular(lower, eye.expand_as(a), upper=False)
    square, vectors = spectrum(lower.mT @ (b / scale[:, :, None] / scale[:, None, :]) @ lower)
    fine &= square[:, 0] > square[:, -1] / _CALM**4
    size = torch.where(fine[:, None], square, 1.0).clamp(min=0).sqrt()
    root = size.sqrt()
    base = root[:, :, None] * (vectors.mT @ upper) * scale[:, None, :]
    back = (lower @ vectors) / root[:, None, :] / scale[:, :, None]
    fine &= _norm(lower) * _norm(upper) < _CALM
    return base, back, size, fine


def _norm(matrix: Tensor) -> Tensor:
    return matrix.abs().sum(-2).amax(-1)
