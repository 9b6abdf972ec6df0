"""The groups that reorder the dimensions of a site, and turn some of them round."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import numpy as np
import torch

from redteam.anatomy import Stacks
from redteam.symmetry.gauges import MonomialGauge
from redteam.symmetry.sampling import permutations, signs
from redteam.symmetry.solvers import assign, carried_cosines, carried_crossed, cosines, crossed


@dataclass(frozen=True)
class Permutation:
    """Reorders the dimensions of a site; legal everywhere.

    Attributes:
        scale_free: Fit on row-normalised stacks (cosine), for a lock that may also scale.
    """

    scale_free: bool = False
    name: ClassVar[str] = "permutation"

    def sample(self, batch: int, width: int, generator: np.random.Generator) -> MonomialGauge:
        """Uniform permutations."""
        return MonomialGauge(permutations(batch, width, generator))

    def fit(self, moving: Stacks, target: Stacks) -> MonomialGauge:
        """Linear assignment on `left0 leftᵀ + right0 rightᵀ`, exact.

        Raises:
            BadInput: If a stack holds NaN or infinity.
        """
        if self.scale_free:
            return MonomialGauge(assign(cosines(moving, target) + carried_cosines(moving, target)))
        return MonomialGauge(assign(crossed(moving, target) + carried_crossed(moving, target)))


@dataclass(frozen=True)
class SignedPermutation:
    """Reorders the dimensions of a site and turns some of them round."""

    name: ClassVar[str] = "signed-permutation"

    def sample(self, batch: int, width: int, generator: np.random.Generator) -> MonomialGauge:
        """Uniform permutations, each sign as likely."""
        return MonomialGauge(permutations(batch, width, generator), signs(batch, width, generator))

    def fit(self, moving: Stacks, target: Stacks) -> MonomialGauge:
        """Linear assignment on `|left0 leftᵀ + right0 rightᵀ|`, then the signs found there; exact.

        Raises:
            BadInput: If a stack holds NaN or infinity.
        """
        cross = crossed(moving, target)
        index = assign(cross.abs() + carried_crossed(moving, target))
        sign = cross.gather(-1, index[:, :, None])[:, :, 0].sign()
        return MonomialGauge(index, torch.where(sign == 0, 1.0, sign))


@dataclass(frozen=True)
class MirroredPermutation:
    """Reorders the dimensions of a site and turns all of them round or none: what a LayerNorm leaves of a stream."""

    name: ClassVar[str] = "mirrored-permutation"

    def sample(self, batch: int, width: int, generator: np.random.Generator) -> MonomialGauge:
        """Uniform permutations, both signs as likely; where it is plus, the element is a permutation."""
        return MonomialGauge(permutations(batch, width, generator), signs(batch, 1, generator).repeat(1, width))

    def fit(self, moving: Stacks, target: Stacks) -> MonomialGauge:
        """Linear assignment with either sign, and the better of the two; exact.

        Raises:
            BadInput: If a stack holds NaN or infinity.
        """
        cross, carried = crossed(moving, target), carried_crossed(moving, target)
        profits = [sign * cross + carried for sign in (1.0, -1.0)]
        orders = [assign(profit) for profit in profits]
        gains = [
            profit.gather(-1, order[:, :, None]).sum((-2, -1)) for profit, order in zip(profits, orders, strict=True)
        ]
        plus = (gains[0] >= gains[1])[:, None]
        return MonomialGauge(
            torch.where(plus, orders[0], orders[1]), torch.where(plus, 1.0, -1.0).to(cross).repeat(1, cross.shape[-1])
        )
