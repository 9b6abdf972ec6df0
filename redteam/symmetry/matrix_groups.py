"""The groups of matrices: rotations, and everything that can be inverted."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import ClassVar, Literal

import numpy as np
import torch

from redteam.anatomy import Stacks
from redteam.errors import BadSetting
from redteam.symmetry.gauges import MatrixGauge, MonomialGauge
from redteam.symmetry.sampling import magnitudes, permutations, require_range, rotations, signs
from redteam.symmetry.solvers import crossed, general_linear, procrustes


@dataclass(frozen=True)
class Orthogonal:
    """Rotations and reflections."""

    name: ClassVar[str] = "orthogonal"

    def sample(self, batch: int, width: int, generator: np.random.Generator) -> MatrixGauge:
        """Haar-distributed, reflections included (Mezzadri, math-ph/0609050)."""
        return MatrixGauge(rotations(batch, width, generator))

    def fit(self, moving: Stacks, target: Stacks) -> MatrixGauge:
        """Procrustes on both stacks together, exact.

        Raises:
            BadInput: If a stack holds NaN or infinity.
        """
        return MatrixGauge(procrustes(crossed(moving, target)))


@dataclass(frozen=True)
class GeneralLinear:
    """Invertible matrices, sampled as MergeLock composes them (arXiv 2509.01548): diagonal × permutation × rotation.

    There it reads `Wq ← Aᵀ Wq, Wk ← A⁻¹ Wk` with A = rotation · permutation · diagonal, so `G = Aᵀ`. The paper leaves
    the range of the diagonal open, and the lock's strength lies there.

    Attributes:
        scale: Range of the diagonal, log-uniform, with random signs.
        factor: `"rotation"` (Haar), or `"gaussian"`: independent normal entries over √n in the rotation's place.

    Raises:
        BadSetting: If the range is not 0 < low ≤ high, or the factor is unknown.
    """

    scale: tuple[float, float] = (0.01, 100.0)
    factor: Literal["rotation", "gaussian"] = "rotation"
    name: ClassVar[str] = "general-linear"

    def __post_init__(self) -> None:
        require_range(self.scale, "the diagonal", "[0.01, 100]")
        if self.factor not in ("rotation", "gaussian"):
            raise BadSetting(f"The factor is {self.factor!r}; expected 'rotation' or 'gaussian'.")

    def sample(self, batch: int, width: int, generator: np.random.Generator) -> MatrixGauge:
        """One matrix per head; its condition number is at most high/low with a rotation, unbounded with a Gaussian."""
        diagonal = magnitudes(self.scale, batch, width, generator) * signs(batch, width, generator)
        order = permutations(batch, width, generator)
        if self.factor == "rotation":
            factor = rotations(batch, width, generator)
        else:
            factor = torch.from_numpy(generator.standard_normal((batch, width, width))) / math.sqrt(width)
        return MatrixGauge(diagonal[:, :, None] * MonomialGauge(order).left(factor))

    def fit(self, moving: Stacks, target: Stacks) -> MatrixGauge:
        """The tied fit (`redteam.symmetry.solvers.general_linear`); `scale` and `factor` play no part.

        Raises:
            BadInput: If a stack holds NaN or infinity.
        """
        return MatrixGauge(general_linear(moving.left, moving.right, target.left, target.right).matrix)
