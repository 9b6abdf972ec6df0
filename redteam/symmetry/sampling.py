"""What the groups draw their elements from: permutations, rotations and ranges, float64 on the CPU."""

from __future__ import annotations

import math

import numpy as np
import torch
from torch import Tensor

from redteam.errors import BadSetting

Range = tuple[float, float]


def require_range(scale: Range, what: str, example: str) -> None:
    """Raises BadSetting unless 0 < low ≤ high < ∞."""
    low, high = scale
    if not (0 < low <= high < math.inf):
        raise BadSetting(f"The range of {what} is {list(scale)}; expected 0 < low ≤ high, for example {example}.")


def permutations(batch: int, width: int, generator: np.random.Generator) -> Tensor:
    """Uniform permutations, int64 [batch, width]."""
    order = np.tile(np.arange(width, dtype=np.int64), (batch, 1))
    return torch.from_numpy(generator.permuted(order, axis=1))


def rotations(batch: int, width: int, generator: np.random.Generator) -> Tensor:
    """Haar-distributed orthogonal matrices, [batch, width, width]; reflections included (Mezzadri, math-ph/0609050)."""
    q, r = torch.linalg.qr(torch.from_numpy(generator.standard_normal((batch, width, width))))
    rotation: Tensor = q * r.diagonal(dim1=-2, dim2=-1).sign()[:, None, :]
    return rotation


def magnitudes(scale: Range, batch: int, width: int, generator: np.random.Generator) -> Tensor:
    """Log-uniform numbers in a range, [batch, width]."""
    low, high = (math.log(x) for x in scale)
    return torch.from_numpy(np.exp(generator.uniform(low, high, (batch, width))))


def signs(batch: int, width: int, generator: np.random.Generator) -> Tensor:
    """−1 or 1, each as likely, [batch, width]."""
    return torch.from_numpy(generator.choice([-1.0, 1.0], (batch, width)))
