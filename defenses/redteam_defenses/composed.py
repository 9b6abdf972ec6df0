"""Gauges composed as the release of PaRaMS composes them (arXiv:2503.07661): other draws, the same groups."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import numpy as np
import torch

from redteam.symmetry.gauges import MatrixGauge, MonomialGauge
from redteam.symmetry.matrix_groups import GeneralLinear
from redteam.symmetry.sampling import magnitudes, rotations
from redteam.symmetry.scalings import PositiveScaling

_RIDGE = 1e-3  # added to the Gaussian's diagonal in the release


@dataclass(frozen=True)
class UniformScaling(PositiveScaling):
    """One positive factor per dimension, uniform in its range, so that small ones are rare."""

    def sample(self, batch: int, width: int, generator: np.random.Generator) -> MonomialGauge:
        """Independent factors."""
        factors = torch.from_numpy(generator.uniform(*self.scale, (batch, width)))
        return MonomialGauge.scaled(factors, power=self.power)


@dataclass(frozen=True)
class Composed(GeneralLinear):
    """Invertible matrices, positive definite or with the factors on their columns; without signs or permutations.

    Attributes:
        form: `"symmetric"` draws U diag(s) Uᵀ with U from the Haar measure, whose condition number is at most high/low;
            `"nonsymmetric"` draws (Z + 10⁻³ I) diag(s) with Z of independent standard normal entries, unbounded.
    """

    form: Literal["symmetric", "nonsymmetric"] = "nonsymmetric"

    def sample(self, batch: int, width: int, generator: np.random.Generator) -> MatrixGauge:
        """One matrix per head; s is log-uniform in the range."""
        if self.form == "symmetric":
            turn = rotations(batch, width, generator)
            return MatrixGauge((turn * magnitudes(self.scale, batch, width, generator)[:, None, :]) @ turn.mT)
        normal = torch.from_numpy(generator.standard_normal((batch, width, width)))
        ridged = normal + _RIDGE * torch.eye(width, dtype=torch.float64)
        return MatrixGauge(ridged * magnitudes(self.scale, batch, width, generator)[:, None, :])
