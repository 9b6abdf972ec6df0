"""Gauges: elements of a group, one per head of a site, that act by `left ← G left` and `right ← G⁻ᵀ right`."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor


@dataclass(frozen=True, eq=False)
class Dense:
    """A gauge given by its matrices.

    Attributes:
        matrix: float64 [B, n, n], invertible.
    """

    matrix: Tensor

    @property
    def batch(self) -> int:
        """How many heads it is for."""
        return int(self.matrix.shape[0])

    @property
    def width(self) -> int:
        """n."""
        return int(self.matrix.shape[-1])

    @cached_property
    def group(self) -> str:
        """The smallest group it belongs to, `"orthogonal"` or `"general-linear"`."""
        eye = torch.eye(self.width, dtype=self.matrix.dtype, device=self.matrix.device)
        orthogonal = bool(((self.matrix @ self.matrix.mT - eye).abs() < 1e-9).all())
        return "orthogonal" if orthogonal else "general-linear"

    def left(self, stack: Tensor) -> Tensor:
        """`G stack`, for a stack [B, n, a]."""
        return self.matrix @ stack

    def right(self, stack: Tensor) -> Tensor:
        """`G⁻ᵀ stack`, for a stack [B, n, c]."""
        moved: Tensor = torch.linalg.solve(self.matrix.mT, stack)
        return moved

    def inverse(self) -> Dense:
        """The gauge that undoes this one."""
        return Dense(torch.linalg.inv(self.matrix))

    def condition(self) -> Tensor:
        """[B], largest over smallest singular value."""
        condition: Tensor = torch.linalg.cond(self.matrix)
        return condition


@dataclass(frozen=True, eq=False)
class Permuted:
    """A permutation, by index, so that a wide MLP needs no matrix.

    Attributes:
        index: int64 [B, n]; row i of the result is row `index[i]` of the stack.
    """

    index: Tensor

    group = "permutation"

    @property
    def batch(self) -> int:
        """How many heads it is for."""
        return int(self.index.shape[0])

    @property
    def width(self) -> int:
        """n."""
        return int(self.index.shape[-1])

    def left(self, stack: Tensor) -> Tensor:
        """The rows of a stack [B, n, a] in their new order."""
        return stack.take_along_dim(self.index.to(stack.device)[:, :, None], dim=1)

    def right(self, stack: Tensor) -> Tensor:
        """The same, since a permutation is its own inverse transpose."""
        return self.left(stack)

    def inverse(self) -> Permuted:
        """The gauge that undoes this one."""
        return Permuted(self.index.argsort(dim=-1))

    def condition(self) -> Tensor:
        """[B], ones."""
        return torch.ones(self.batch, dtype=torch.float64, device=self.index.device)


Gauge = Dense | Permuted
