"""Groups of gauges. Sampling an element is a defense, fitting one to an anchor is an attack."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import ClassVar, Literal, Protocol

import numpy as np
import torch
from torch import Tensor

from redteam.anatomy import Stacks
from redteam.errors import BadSetting
from redteam.symmetry.gauges import Dense, Gauge, Permuted
from redteam.symmetry.solvers import assign, general_linear, procrustes


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
        return Permuted(torch.from_numpy(_permutations(batch, width, generator)))

    def fit(self, moving: Stacks, target: Stacks) -> Permuted:
        """Linear assignment on `left0 leftᵀ + right0 rightᵀ`, exact.

        Raises:
            BadInput: If a stack holds NaN or infinity.
        """
        if self.scale_free:
            moving, target = _normalised(moving), _normalised(target)
        return Permuted(assign(_cross(moving, target)))


@dataclass(frozen=True)
class Orthogonal:
    """Rotations and reflections."""

    name: ClassVar[str] = "orthogonal"

    def sample(self, batch: int, width: int, generator: np.random.Generator) -> Dense:
        """Haar-distributed, reflections included (Mezzadri, math-ph/0609050)."""
        return Dense(_rotations(batch, width, generator))

    def fit(self, moving: Stacks, target: Stacks) -> Dense:
        """Procrustes on both stacks together, exact.

        Raises:
            BadInput: If a stack holds NaN or infinity.
        """
        return Dense(procrustes(_cross(moving, target)))


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
        low, high = self.scale
        if not (0 < low <= high < math.inf):
            raise BadSetting(
                f"The range of the diagonal is {list(self.scale)}; expected 0 < low ≤ high, for example [0.01, 100]."
            )
        if self.factor not in ("rotation", "gaussian"):
            raise BadSetting(f"The factor is {self.factor!r}; expected 'rotation' or 'gaussian'.")

    def sample(self, batch: int, width: int, generator: np.random.Generator) -> Dense:
        """One matrix per head; its condition number is at most high/low with a rotation, unbounded with a Gaussian."""
        low, high = (math.log(x) for x in self.scale)
        diagonal = np.exp(generator.uniform(low, high, (batch, width))) * generator.choice([-1.0, 1.0], (batch, width))
        order = torch.from_numpy(_permutations(batch, width, generator))
        if self.factor == "rotation":
            factor = _rotations(batch, width, generator)
        else:
            factor = torch.from_numpy(generator.standard_normal((batch, width, width))) / math.sqrt(width)
        return Dense(torch.from_numpy(diagonal)[:, :, None] * Permuted(order).left(factor))

    def fit(self, moving: Stacks, target: Stacks) -> Dense:
        """The tied fit (`redteam.symmetry.solvers.general_linear`); `scale` and `factor` play no part.

        Raises:
            BadInput: If a stack holds NaN or infinity.
        """
        return Dense(general_linear(moving.left, moving.right, target.left, target.right).matrix)


def _permutations(
    batch: int, width: int, generator: np.random.Generator
) -> np.ndarray[tuple[int, int], np.dtype[np.int64]]:
    return generator.permuted(np.tile(np.arange(width, dtype=np.int64), (batch, 1)), axis=1)


def _rotations(batch: int, width: int, generator: np.random.Generator) -> Tensor:
    q, r = torch.linalg.qr(torch.from_numpy(generator.standard_normal((batch, width, width))))
    rotation: Tensor = q * r.diagonal(dim1=-2, dim2=-1).sign()[:, None, :]
    return rotation


def _cross(moving: Stacks, target: Stacks) -> Tensor:
    return target.left @ moving.left.mT + target.right @ moving.right.mT


def _normalised(stacks: Stacks) -> Stacks:
    return Stacks(
        *(x / torch.linalg.vector_norm(x, dim=-1, keepdim=True).clamp(min=1e-300) for x in (stacks.left, stacks.right))
    )


GROUPS: dict[str, type[Permutation] | type[Orthogonal] | type[GeneralLinear]] = {
    group.name: group for group in (Permutation, Orthogonal, GeneralLinear)
}
"""Name → group, each contained in the next."""
