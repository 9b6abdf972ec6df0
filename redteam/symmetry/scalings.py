"""The groups that scale: rows, reordered rows, and rotary planes."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import ClassVar, get_args

import numpy as np
import torch

from redteam.anatomy import Layout, Stacks
from redteam.errors import BadInput, BadSetting
from redteam.symmetry.gauges import Permuted, Turned, planes_of
from redteam.symmetry.sampling import Range, magnitudes, permutations, require_range, signs
from redteam.symmetry.scalars import scalars
from redteam.symmetry.solvers import assign, cosines


@dataclass(frozen=True)
class Scaling:
    """One factor per dimension of a site.

    Attributes:
        scale: Range of the factors' sizes, log-uniform.
        signed: Whether factors have random signs; a fit finds signs either way.

    Raises:
        BadSetting: If the range is not 0 < low ≤ high.
    """

    scale: Range = (0.1, 10.0)
    signed: bool = True
    name: ClassVar[str] = "scaling"

    def __post_init__(self) -> None:
        require_range(self.scale, "the factors", "[0.1, 10]")

    def sample(self, batch: int, width: int, generator: np.random.Generator) -> Permuted:
        """Independent factors."""
        factors = magnitudes(self.scale, batch, width, generator)
        return Permuted.scaled(factors * signs(batch, width, generator) if self.signed else factors)

    def fit(self, moving: Stacks, target: Stacks) -> Permuted:
        """The tied fit row by row (`redteam.symmetry.scalars`), the global minimum; `scale` plays no part.

        Raises:
            BadInput: If a stack holds NaN or infinity.
        """
        return Permuted.scaled(scalars(moving.left, moving.right, target.left, target.right))


@dataclass(frozen=True)
class Monomial:
    """Permutation times scaling: reorders the dimensions of a site and multiplies each by a factor.

    Attributes:
        scale: As in `Scaling`.
        signed: As in `Scaling`.

    Raises:
        BadSetting: If the range is not 0 < low ≤ high.
    """

    scale: Range = (0.1, 10.0)
    signed: bool = True
    name: ClassVar[str] = "scaled-permutation"

    def __post_init__(self) -> None:
        require_range(self.scale, "the factors", "[0.1, 10]")

    def sample(self, batch: int, width: int, generator: np.random.Generator) -> Permuted:
        """Uniform permutations with independent factors."""
        order = permutations(batch, width, generator)
        return Permuted(order, Scaling(self.scale, self.signed).sample(batch, width, generator).scale)

    def fit(self, moving: Stacks, target: Stacks) -> Permuted:
        """Linear assignment on the sizes of the rows' cosines, then the tied fit of the factors.

        The factors are the best for the order found; the order is the best by the cosines, on which no factor has a
        bearing, and not by the tied cost.

        Raises:
            BadInput: If a stack holds NaN or infinity.
        """
        order = Permuted(assign(cosines(moving, target).abs()))
        return Permuted(order.index, Scaling().fit(moving.moved(order), target).scale)


@dataclass(frozen=True)
class Planar:
    """One complex number per rotary plane: what rotary embeddings leave of the general linear group at query and key.

    Attributes:
        scale: Range of the modulus, log-uniform; the angle is uniform.
        layout: Which rows make a plane: i and i + n/2 (`"half"`, Hugging Face), or 2i and 2i + 1 (`"interleaved"`).

    Raises:
        BadSetting: If the range is not 0 < low ≤ high, or the layout is unknown.
    """

    scale: Range = (0.1, 10.0)
    layout: Layout = "half"
    name: ClassVar[str] = "planar"

    def __post_init__(self) -> None:
        require_range(self.scale, "the modulus", "[0.1, 10]")
        if self.layout not in get_args(Layout):
            raise BadSetting(f"The layout is {self.layout!r}; expected 'half' or 'interleaved'.")

    def sample(self, batch: int, width: int, generator: np.random.Generator) -> Turned:
        """Independent numbers.

        Raises:
            BadInput: If the width is odd.
        """
        if width % 2:
            raise BadInput(f"A head of {width} dimensions has no rotary planes; expected an even number of dimensions.")
        modulus = magnitudes(self.scale, batch, width // 2, generator)
        angle = torch.from_numpy(generator.uniform(0, 2 * math.pi, (batch, width // 2)))
        return Turned(torch.polar(modulus, angle), self.layout)

    def fit(self, moving: Stacks, target: Stacks) -> Turned:
        """The tied fit plane by plane (`redteam.symmetry.scalars`), the global minimum; `scale` plays no part.

        Raises:
            BadInput: If a stack holds NaN or infinity, or the width is odd.
        """
        planes = (planes_of(x, self.layout) for x in (moving.left, moving.right, target.left, target.right))
        return Turned(scalars(*planes), self.layout)
