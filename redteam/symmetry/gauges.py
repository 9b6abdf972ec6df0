"""Gauges: elements of a group, one per head of a site, that act by `left ← G left` and `right ← G⁻ᵀ right`."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import ClassVar

import torch
from torch import Tensor

from redteam.anatomy import Layout, smallest, supergroups
from redteam.errors import BadInput

_ROUNDING = 1e-13  # no more than this from orthogonal, a matrix is its own inverse's transpose


@dataclass(frozen=True, eq=False)
class MatrixGauge:
    """A gauge given by its matrices.

    Attributes:
        matrix: float64 [B, n, n], invertible.
    """

    matrix: Tensor
    layout: ClassVar[None] = None
    turned: ClassVar[None] = None
    power: ClassVar[int] = 1
    neutral: ClassVar[bool] = False

    @property
    def batch(self) -> int:
        """How many heads it is for."""
        return int(self.matrix.shape[0])

    @property
    def width(self) -> int:
        """n."""
        return int(self.matrix.shape[-1])

    @cached_property
    def groups(self) -> frozenset[str]:
        """The groups it belongs to; whether the matrices are orthogonal is looked at, and nothing finer."""
        return supergroups("orthogonal" if self._bent < 1e-9 else "general-linear")

    @cached_property
    def _bent(self) -> float:
        """How far the matrices are from orthogonal ones: `max|G Gᵀ − I|`."""
        eye = torch.eye(self.width, dtype=self.matrix.dtype, device=self.matrix.device)
        matrix = self.matrix.detach()
        return float((matrix @ matrix.mT - eye).abs().max())

    @property
    def group(self) -> str:
        """The smallest group it belongs to."""
        return smallest(self.groups)

    def left(self, stack: Tensor) -> Tensor:
        """`G stack`, for a stack [B, n, a]."""
        return self.matrix.to(stack.device) @ stack

    def right(self, stack: Tensor) -> Tensor:
        """`G⁻ᵀ stack`, for a stack [B, n, c]."""
        if not self.matrix.requires_grad and self._bent < _ROUNDING:
            return self.left(stack)
        moved: Tensor = torch.linalg.solve(self.matrix.mT.to(stack.device), stack)
        return moved

    def carried(self, stack: Tensor) -> Tensor:
        """What is carried stays: a site allows matrices only where it is the same in every row."""
        return stack

    def inverse(self) -> MatrixGauge:
        """The gauge that undoes this one."""
        return MatrixGauge(torch.linalg.inv(self.matrix))

    def condition(self) -> Tensor:
        """[B], largest over smallest singular value."""
        condition: Tensor = torch.linalg.cond(self.matrix)
        return condition


@dataclass(frozen=True, eq=False)
class MonomialGauge:
    """A permutation, perhaps with a factor for each row: by index, so that a wide MLP needs no matrix.

    Attributes:
        index: int64 [B, n]; row i of the result is row `index[i]` of the stack.
        scale: float64 [B, n], non-zero; then row i is multiplied (on the right side divided) by `scale[i]`. None for 1.
        power: By which power of the factors the right side is divided: 2 where a squared ReLU stands between the sides.
    """

    index: Tensor
    scale: Tensor | None = None
    power: int = 1
    layout: ClassVar[None] = None
    turned: ClassVar[None] = None

    @classmethod
    def scaled(cls, scale: Tensor, *, power: int = 1) -> MonomialGauge:
        """A diagonal gauge: every row stays where it is and is multiplied by its factor, [B, n]."""
        return cls(torch.arange(scale.shape[1], device=scale.device).expand(scale.shape), scale, power)

    @classmethod
    def of_each(cls, gauges: Sequence[MonomialGauge]) -> MonomialGauge:
        """Gauges of one width and power as one, each for its heads."""
        index = torch.cat([gauge.index for gauge in gauges])
        if all(gauge.scale is None for gauge in gauges):
            return cls(index)
        ones = torch.ones_like(index[:1], dtype=torch.float64)
        scale = torch.cat([ones if gauge.scale is None else gauge.scale for gauge in gauges])
        return cls(index, scale, next(gauge.power for gauge in gauges if gauge.scale is not None))

    def part(self, place: int) -> MonomialGauge:
        """That of one head alone."""
        one = slice(place, place + 1)
        return MonomialGauge(self.index[one], None if self.scale is None else self.scale[one], self.power)

    @classmethod
    def still(cls, batch: int, width: int) -> MonomialGauge:
        """The gauge that changes nothing."""
        return cls(torch.arange(width).expand(batch, width))

    @property
    def batch(self) -> int:
        """How many heads it is for."""
        return int(self.index.shape[0])

    @property
    def width(self) -> int:
        """n."""
        return int(self.index.shape[-1])

    @cached_property
    def groups(self) -> frozenset[str]:
        """The groups it belongs to, by its numbers: the identity is a scaling and a permutation."""
        positive = self.scale is None or bool((self.scale > 0).all())
        found = supergroups("positive-scaled-permutation" if positive else "scaled-permutation")
        if self.scale is None or bool((self.scale == 1).all()):
            found |= supergroups("permutation")
        elif bool((self.scale.abs() == 1).all()):
            whole = bool((self.scale == self.scale[:, :1]).all())
            found |= supergroups("mirrored-permutation" if whole else "signed-permutation")
        if self.stays:
            found |= supergroups("positive-scaling" if positive else "scaling")
        return found

    @cached_property
    def neutral(self) -> bool:
        """Whether it changes nothing."""
        return self.stays and (self.scale is None or bool((self.scale == 1).all()))

    @cached_property
    def stays(self) -> bool:
        """Whether every row stays where it is."""
        return bool((self.index == torch.arange(self.width, device=self.index.device)).all())

    @property
    def group(self) -> str:
        """The smallest group it belongs to."""
        return smallest(self.groups)

    def left(self, stack: Tensor) -> Tensor:
        """`G stack`, for a stack [B, n, a]."""
        moved = self._ordered(stack)
        return moved if self.scale is None else moved * self.scale.to(stack.device)[:, :, None]

    def right(self, stack: Tensor) -> Tensor:
        """`G⁻ᵀ stack`, for a stack [B, n, c]: the rows in the same order, divided by that power of their factors."""
        moved = self._ordered(stack)
        return moved if self.scale is None else moved / self.scale.to(stack.device)[:, :, None] ** self.power

    def carried(self, stack: Tensor) -> Tensor:
        """The rows in the same order, and not multiplied."""
        return self._ordered(stack)

    def inverse(self) -> MonomialGauge:
        """The gauge that undoes this one."""
        back = self.index.argsort(dim=-1)
        return MonomialGauge(back, None if self.scale is None else 1 / self.scale.gather(-1, back), self.power)

    def condition(self) -> Tensor:
        """[B], the largest factor's size over the smallest's."""
        if self.scale is None:
            return torch.ones(self.batch, dtype=torch.float64, device=self.index.device)
        size = self.scale.abs()
        return size.amax(-1) / size.amin(-1)

    def _ordered(self, stack: Tensor) -> Tensor:
        return stack.take_along_dim(self.index.to(stack.device)[:, :, None], dim=1)


@dataclass(frozen=True, eq=False)
class PlanarGauge:
    """One complex number per rotary plane: `u ← s u` on the left and `w ← w / s̄` on the right.

    With s = a + jb, the two rows of a plane become `a q − b q′` and `b q + a q′`; on the right they do too, divided by
    a² + b².

    Attributes:
        number: complex128 [B, n/2], non-zero.
        layout: Which rows make a plane.
    """

    number: Tensor
    layout: Layout = "half"
    power: ClassVar[int] = 1
    neutral: ClassVar[bool] = False

    @property
    def batch(self) -> int:
        """How many heads it is for."""
        return int(self.number.shape[0])

    @property
    def width(self) -> int:
        """n."""
        return 2 * int(self.number.shape[-1])

    @cached_property
    def groups(self) -> frozenset[str]:
        """The groups it belongs to: orthogonal too if every number has modulus 1, smaller ones if all are real."""
        found = supergroups("planar")
        if bool((self.number.imag == 0).all()):
            found |= supergroups("plane-signs" if bool((self.number.real.abs() == 1).all()) else "plane-scaling")
        if bool(((self.number.abs() - 1).abs() < 1e-9).all()):
            found |= supergroups("orthogonal")
        return found

    @property
    def turned(self) -> int:
        """How many dimensions its planes cover: all."""
        return self.width

    @property
    def group(self) -> str:
        """The smallest group it belongs to."""
        return smallest(self.groups)

    def left(self, stack: Tensor) -> Tensor:
        """`G stack`, for a stack [B, n, a]."""
        number = self.number.to(stack.device)[:, :, None]
        return rows_of(number * planes_of(stack, self.layout), self.layout)

    def right(self, stack: Tensor) -> Tensor:
        """`G⁻ᵀ stack`, for a stack [B, n, c]."""
        number = self.number.to(stack.device)[:, :, None]
        return rows_of(planes_of(stack, self.layout) / number.conj(), self.layout)

    def carried(self, stack: Tensor) -> Tensor:
        """What is carried stays: no rows change places."""
        return stack

    def inverse(self) -> PlanarGauge:
        """The gauge that undoes this one."""
        return PlanarGauge(1 / self.number, self.layout)

    def condition(self) -> Tensor:
        """[B], the largest modulus over the smallest."""
        size = self.number.abs()
        return size.amax(-1) / size.amin(-1)


@dataclass(frozen=True, eq=False)
class BlockGauge:
    """Planes in the first dimensions of a head, a matrix on the rest: what a partial rotary embedding leaves.

    Attributes:
        planes: Of the dimensions that are turned.
        rest: Of those that are not; a diagonal where a norm of queries and keys allows no more.
    """

    planes: PlanarGauge
    rest: MatrixGauge | MonomialGauge
    power: ClassVar[int] = 1
    neutral: ClassVar[bool] = False

    @cached_property
    def groups(self) -> frozenset[str]:
        """The groups it belongs to: with real numbers and a diagonal, smaller ones too."""
        found = supergroups("partial-planar")
        for plane, row, whole in (
            ("plane-scaling", "scaling", "scaling"),
            ("plane-signs", "signed-permutation", "signed-permutation"),
        ):
            if plane in self.planes.groups and {"scaling", row} <= self.rest.groups:
                found |= {plane} | supergroups(whole)
        return found

    @property
    def group(self) -> str:
        """The smallest group it belongs to."""
        return smallest(self.groups)

    @property
    def batch(self) -> int:
        """How many heads it is for."""
        return self.rest.batch

    @property
    def width(self) -> int:
        """n."""
        return self.turned + self.rest.width

    @property
    def layout(self) -> Layout:
        """Which rows make a plane."""
        return self.planes.layout

    @property
    def turned(self) -> int:
        """How many dimensions its planes cover."""
        return self.planes.width

    def left(self, stack: Tensor) -> Tensor:
        """`G stack`, for a stack [B, n, a]."""
        return torch.cat([self.planes.left(stack[:, : self.turned]), self.rest.left(stack[:, self.turned :])], 1)

    def right(self, stack: Tensor) -> Tensor:
        """`G⁻ᵀ stack`, for a stack [B, n, c]."""
        return torch.cat([self.planes.right(stack[:, : self.turned]), self.rest.right(stack[:, self.turned :])], 1)

    def carried(self, stack: Tensor) -> Tensor:
        """What is carried stays: no rows change places."""
        return stack

    def inverse(self) -> BlockGauge:
        """The gauge that undoes this one."""
        return BlockGauge(self.planes.inverse(), self.rest.inverse())

    def condition(self) -> Tensor:
        """[B], largest over smallest singular value."""
        if isinstance(self.rest, MatrixGauge):
            rest = torch.linalg.svdvals(self.rest.matrix)
        else:
            rest = self.rest.left(torch.ones(self.batch, self.rest.width, 1, dtype=torch.float64))[..., 0].abs()
        sizes = torch.cat([self.planes.number.abs(), rest], 1)
        return sizes.amax(-1) / sizes.amin(-1)


Gauge = MatrixGauge | MonomialGauge | PlanarGauge | BlockGauge


def planes_of(stack: Tensor, layout: Layout) -> Tensor:
    """The two rows of each plane as one complex row: [B, n, k] → complex [B, n/2, k].

    Raises:
        BadInput: If n is odd.
    """
    n = stack.shape[1]
    if n % 2:
        raise BadInput(f"A head of {n} dimensions has no rotary planes; expected an even number of dimensions.")
    if layout == "half":
        return torch.complex(stack[:, : n // 2], stack[:, n // 2 :])
    return torch.complex(stack[:, 0::2], stack[:, 1::2])


def rows_of(planes: Tensor, layout: Layout) -> Tensor:
    """The reverse of `planes_of`."""
    if layout == "half":
        return torch.cat([planes.real, planes.imag], dim=1)
    return torch.stack([planes.real, planes.imag], dim=2).flatten(1, 2)
