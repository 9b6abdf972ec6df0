"""Maps with adapters beside them, as Zamba 2 has: each use of a block that several layers share has its own."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import ClassVar

import torch
from torch import Tensor

from redteam.anatomy.linear import Affine, Draft, Gathered, Linear, Norm


@dataclass(frozen=True)
class Adapted:
    """A map W and the adapters that add `B A x` to its `W x`, as one: the columns of every B stand behind those of W.

    What acts on the outputs acts on W and on every B, else it would change the function. The maps A are no part of it.

    Attributes:
        linear: W.
        raising: Every B, at least one; each has as many rows as W, and no bias.
        beyond: How many columns they have together.
    """

    linear: Linear
    raising: tuple[Linear, ...]
    beyond: int
    writes_centred: ClassVar[bool] = False
    reads_centred: ClassVar[bool] = False
    """A mean that a norm takes off W's inputs is free for W alone, which no shift of the whole has the form of."""

    @property
    def linears(self) -> tuple[Linear, ...]:
        """All of them, W first."""
        return (self.linear, *self.raising)

    @property
    def norm(self) -> Norm | None:
        """The norm whose output W reads."""
        return self.linear.norm and replace(self.linear.norm, beyond=self.beyond)

    @property
    def weight(self) -> str:
        """Name of W."""
        return self.linear.weight

    @property
    def bias(self) -> str | None:
        """Name of W's bias, None where there is none."""
        return self.linear.bias

    @property
    def bias_free(self) -> bool:
        """As `Linear.bias_free`."""
        return self.linear.bias_free

    @property
    def bias_bound(self) -> tuple[int, int] | None:
        """As `Linear.bias_bound`."""
        return self.linear.bias_bound

    @property
    def names(self) -> tuple[str, ...]:
        """The tensors they lie in."""
        return tuple(name for linear in self.linears for name in linear.names)

    def bound(self, bias: Tensor) -> Tensor:
        """As `Linear.bound`."""
        return self.linear.bound(bias)

    def read(self, checkpoint: Mapping[str, Tensor]) -> Affine:
        """All maps as one, in float64; raises as `Linear.read`."""
        own, *raising = (linear.read(checkpoint) for linear in self.linears)
        return Affine(torch.cat([own.weight, *(affine.weight for affine in raising)], dim=1), own.bias)

    def write(self, checkpoint: Mapping[str, Tensor], affine: Affine) -> dict[str, Tensor]:
        """As `Linear.write`."""
        draft, start = Draft.of(checkpoint), 0
        for linear in self.linears:
            columns = linear.inputs(tuple(draft[linear.weight].shape))
            part = affine.weight[:, start : start + columns]
            linear.write(draft, Affine(part, affine.bias if linear is self.linear else None))
            start += columns
        return draft.tensors


AnyLinear = Linear | Gathered | Adapted
"""What a side of a site may be."""
