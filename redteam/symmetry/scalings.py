"""The groups that scale rows, in their order or in another."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from redteam.anatomy import Stacks
from redteam.symmetry.gauges import MonomialGauge
from redteam.symmetry.sampling import Range, magnitudes, permutations, require_range, signs
from redteam.symmetry.solvers import assign, carried_cosines, cosines
from redteam.symmetry.tied_scalar import scalars


@dataclass(frozen=True)
class Scaling:
    """One factor per dimension of a site.

    Attributes:
        scale: Range of the factors' sizes, log-uniform; their signs are random.

    Raises:
        BadSetting: If the range is not 0 < low ≤ high.
    """

    scale: Range = (0.1, 10.0)
    name: ClassVar[str] = "scaling"

    def __post_init__(self) -> None:
        require_range(self.scale, "the factors", "[0.1, 10]")

    def sample(self, batch: int, width: int, generator: np.random.Generator) -> MonomialGauge:
        """Independent factors."""
        factors = magnitudes(self.scale, batch, width, generator)
        return MonomialGauge.scaled(factors * signs(batch, width, generator))

    def fit(self, moving: Stacks, target: Stacks) -> MonomialGauge:
        """The tied fit row by row (`redteam.symmetry.tied_scalar`), the global minimum; `scale` plays no part.

        Raises:
            BadInput: If a stack holds NaN or infinity.
        """
        return MonomialGauge.scaled(scalars(moving.left, moving.right, target.left, target.right))


@dataclass(frozen=True)
class Monomial:
    """Permutation times scaling: reorders the dimensions of a site and multiplies each by a factor.

    Attributes:
        scale: As in `Scaling`.

    Raises:
        BadSetting: If the range is not 0 < low ≤ high.
    """

    scale: Range = (0.1, 10.0)
    name: ClassVar[str] = "scaled-permutation"

    def __post_init__(self) -> None:
        require_range(self.scale, "the factors", "[0.1, 10]")

    def sample(self, batch: int, width: int, generator: np.random.Generator) -> MonomialGauge:
        """Uniform permutations with independent factors."""
        order = permutations(batch, width, generator)
        return MonomialGauge(order, Scaling(self.scale).sample(batch, width, generator).scale)

    def fit(self, moving: Stacks, target: Stacks) -> MonomialGauge:
        """Linear assignment on the sizes of the rows' cosines, those of a gate with their signs, then the tied factors.

        The factors are the best for the order found; the order is the best by the cosines, on which no factor has a
        bearing, and not by the tied cost.

        Raises:
            BadInput: If a stack holds NaN or infinity.
        """
        order = MonomialGauge(assign(cosines(moving, target).abs() + carried_cosines(moving, target)))
        return self.scaled(order, moving, target)

    def scaled(self, order: MonomialGauge, moving: Stacks, target: Stacks) -> MonomialGauge:
        """A permutation with the factors that fit best once it is applied."""
        return MonomialGauge(order.index, Scaling().fit(moving.moved(order), target).scale)


@dataclass(frozen=True)
class PositiveScaling:
    """One positive factor per dimension of a site: what a ReLU between its two maps allows.

    Attributes:
        scale: As in `Scaling`.
        power: By which power of the factors the right side is divided: 2 for a squared ReLU.

    Raises:
        BadSetting: If the range is not 0 < low ≤ high.
    """

    scale: Range = (0.1, 10.0)
    power: int = 1
    name: ClassVar[str] = "positive-scaling"

    def __post_init__(self) -> None:
        require_range(self.scale, "the factors", "[0.1, 10]")

    def sample(self, batch: int, width: int, generator: np.random.Generator) -> MonomialGauge:
        """Independent factors."""
        return MonomialGauge.scaled(magnitudes(self.scale, batch, width, generator), power=self.power)

    def fit(self, moving: Stacks, target: Stacks) -> MonomialGauge:
        """The tied fit row by row, the global minimum among positive factors; `scale` plays no part.

        Raises:
            BadInput: If a stack holds NaN or infinity.
        """
        pairs = moving.left, moving.right, target.left, target.right
        return MonomialGauge.scaled(scalars(*pairs, positive=True, power=self.power), power=self.power)


@dataclass(frozen=True)
class PositiveMonomial:
    """Permutation times positive scaling.

    Attributes:
        scale: As in `Scaling`.
        power: As in `PositiveScaling`.

    Raises:
        BadSetting: If the range is not 0 < low ≤ high.
    """

    scale: Range = (0.1, 10.0)
    power: int = 1
    name: ClassVar[str] = "positive-scaled-permutation"

    def __post_init__(self) -> None:
        require_range(self.scale, "the factors", "[0.1, 10]")

    def sample(self, batch: int, width: int, generator: np.random.Generator) -> MonomialGauge:
        """Uniform permutations with independent factors."""
        order = permutations(batch, width, generator)
        return MonomialGauge(order, magnitudes(self.scale, batch, width, generator), self.power)

    def fit(self, moving: Stacks, target: Stacks) -> MonomialGauge:
        """As `Monomial.fit`, on cosines with their signs, which no positive factor changes.

        Raises:
            BadInput: If a stack holds NaN or infinity.
        """
        order = MonomialGauge(assign(cosines(moving, target) + carried_cosines(moving, target)))
        return self.scaled(order, moving, target)

    def scaled(self, order: MonomialGauge, moving: Stacks, target: Stacks) -> MonomialGauge:
        """As `Monomial.scaled`, with positive factors."""
        factors = PositiveScaling(power=self.power).fit(moving.moved(order), target).scale
        return MonomialGauge(order.index, factors, self.power)
