"""Groups of gauges. Sampling an element is a defense, fitting one to an anchor is an attack."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar, Literal, Protocol

import numpy as np
import torch

from redteam.anatomy import Site, Stacks
from redteam.errors import BadSetting
from redteam.symmetry.gauges import Dense, Gauge, Permuted
from redteam.symmetry.sampling import magnitudes, permutations, require_range, rotations, signs
from redteam.symmetry.scalings import Monomial, Planar, Scaling
from redteam.symmetry.solvers import assign, cosines, crossed, general_linear, procrustes


class Group(Protocol):
    """What every group can do."""

    @property
    def name(self) -> str:
        """As in `Site.legal`."""

    def sample(self, batch: int, width: int, generator: np.random.Generator) -> Gauge:
        """A random element for each of `batch` heads of `width` dimensions, float64 on the CPU."""

    def fit(self, moving: Stacks, target: Stacks) -> Gauge:
        """The element that brings `moving` closest to `target`, by the tied objective unless an option says else."""


@dataclass(frozen=True)
class Permutation:
    """Reorders the dimensions of a site; legal everywhere.

    Attributes:
        scale_free: Fit on row-normalised stacks (cosine), for a lock that may also scale.
    """

    scale_free: bool = False
    name: ClassVar[str] = "permutation"

    def sample(self, batch: int, width: int, generator: np.random.Generator) -> Permuted:
        """Uniform permutations."""
        return Permuted(permutations(batch, width, generator))

    def fit(self, moving: Stacks, target: Stacks) -> Permuted:
        """Linear assignment on `left0 leftᵀ + right0 rightᵀ`, exact.

        Raises:
            BadInput: If a stack holds NaN or infinity.
        """
        return Permuted(assign((cosines if self.scale_free else crossed)(moving, target)))


@dataclass(frozen=True)
class SignedPermutation:
    """Reorders the dimensions of a site and turns some of them round."""

    name: ClassVar[str] = "signed-permutation"

    def sample(self, batch: int, width: int, generator: np.random.Generator) -> Permuted:
        """Uniform permutations, each sign as likely."""
        return Permuted(permutations(batch, width, generator), signs(batch, width, generator))

    def fit(self, moving: Stacks, target: Stacks) -> Permuted:
        """Linear assignment on `|left0 leftᵀ + right0 rightᵀ|`, then the signs found there; exact.

        Raises:
            BadInput: If a stack holds NaN or infinity.
        """
        cross = crossed(moving, target)
        index = assign(cross.abs())
        sign = cross.gather(-1, index[:, :, None])[:, :, 0].sign()
        return Permuted(index, torch.where(sign == 0, 1.0, sign))


@dataclass(frozen=True)
class Orthogonal:
    """Rotations and reflections."""

    name: ClassVar[str] = "orthogonal"

    def sample(self, batch: int, width: int, generator: np.random.Generator) -> Dense:
        """Haar-distributed, reflections included (Mezzadri, math-ph/0609050)."""
        return Dense(rotations(batch, width, generator))

    def fit(self, moving: Stacks, target: Stacks) -> Dense:
        """Procrustes on both stacks together, exact.

        Raises:
            BadInput: If a stack holds NaN or infinity.
        """
        return Dense(procrustes(crossed(moving, target)))


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

    def sample(self, batch: int, width: int, generator: np.random.Generator) -> Dense:
        """One matrix per head; its condition number is at most high/low with a rotation, unbounded with a Gaussian."""
        diagonal = magnitudes(self.scale, batch, width, generator) * signs(batch, width, generator)
        order = permutations(batch, width, generator)
        if self.factor == "rotation":
            factor = rotations(batch, width, generator)
        else:
            factor = torch.from_numpy(generator.standard_normal((batch, width, width))) / math.sqrt(width)
        return Dense(diagonal[:, :, None] * Permuted(order).left(factor))

    def fit(self, moving: Stacks, target: Stacks) -> Dense:
        """The tied fit (`redteam.symmetry.solvers.general_linear`); `scale` and `factor` play no part.

        Raises:
            BadInput: If a stack holds NaN or infinity.
        """
        return Dense(general_linear(moving.left, moving.right, target.left, target.right).matrix)


GROUPS: Mapping[str, type[Group]] = {
    group.name: group
    for group in (Permutation, SignedPermutation, Scaling, Planar, Monomial, Orthogonal, GeneralLinear)
}
"""Name → group; `redteam.anatomy.containing` says which is contained in which."""


def widest(site: Site) -> Group:
    """The largest group that is legal at a site, with its default settings."""
    if site.planes is not None:
        return Planar(layout=site.planes)
    name = max(site.legal, key=list(GROUPS).index)
    return GROUPS[name]()
