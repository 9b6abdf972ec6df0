"""Linear maps as they lie in a checkpoint: which tensor, which rows of it, which bias, which norm they read."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from redteam.errors import BadInput


@dataclass(frozen=True)
class Affine:
    """A linear map in float64: `y = weight x + bias`.

    Attributes:
        weight: [out, in].
        bias: [out], or None where there is none.
    """

    weight: Tensor
    bias: Tensor | None


@dataclass(frozen=True)
class Norm:
    """A norm that a projection reads.

    Attributes:
        weight: Name of its gain γ.
        bias: Name of its shift β, None where there is none.
        centred: Whether it subtracts the mean (LayerNorm does, RMSNorm doesn't).
    """

    weight: str
    bias: str | None
    centred: bool = True

    def read(self, checkpoint: Mapping[str, Tensor]) -> tuple[Tensor, Tensor]:
        """γ and β in float64, [in] each; β is zero where there is none."""
        gain = _float64(checkpoint, self.weight)
        return gain, torch.zeros_like(gain) if self.bias is None else _float64(checkpoint, self.bias)


@dataclass(frozen=True)
class Linear:
    """A linear map in a checkpoint, perhaps a part of a fused tensor. A norm's gain is one from a single number.

    Attributes:
        weight: Name of the tensor.
        bias: Name of the bias, None where there is none.
        norm: The norm whose output it reads, None if it reads something else.
        writes_centred: Whether it writes to a stream that only centred norms read, so that the mean of what it writes
            is never seen.
        bias_free: Whether the function leaves its bias free (a key bias under softmax; a value bias, which the output
            bias can take up).
        rows: First and last (excluded) of the output rows of a fused tensor that are its own, all by default.
        transposed: Whether the tensor is stored [in, out].
    """

    weight: str
    bias: str | None
    norm: Norm | None = None
    writes_centred: bool = False
    bias_free: bool = False
    rows: tuple[int, int] | None = None
    transposed: bool = False

    @property
    def names(self) -> tuple[str, ...]:
        """The tensors it lies in."""
        return (self.weight,) if self.bias is None else (self.weight, self.bias)

    @property
    def reads_centred(self) -> bool:
        """Whether `W ← W + c (1/γ)ᵀ, b ← b − c Σ β/γ` is free."""
        return self.norm is not None and self.norm.centred and (self.norm.bias is None or self.bias is not None)

    @property
    def _rows(self) -> slice:
        return slice(None) if self.rows is None else slice(*self.rows)

    def _own(self, weight: Tensor) -> Tensor:
        """The part of a stored weight that is this map's, [out, in]: a view."""
        return weight[:, None] if weight.ndim == 1 else (weight.T if self.transposed else weight)[self._rows]

    def read(self, checkpoint: Mapping[str, Tensor]) -> Affine:
        """The map, in float64.

        Raises:
            BadInput: If a tensor holds NaN or infinity.
        """
        weight = self._own(_float64(checkpoint, self.weight))
        return Affine(weight, None if self.bias is None else _float64(checkpoint, self.bias)[self._rows])

    def write(self, checkpoint: Mapping[str, Tensor], affine: Affine) -> dict[str, Tensor]:
        """The tensors it lies in with `affine` in its place, in their own dtype; a fused tensor's other rows stay."""
        weight = checkpoint[self.weight].clone()
        self._own(weight).copy_(affine.weight)
        if self.bias is None or affine.bias is None:
            return {self.weight: weight}
        bias = checkpoint[self.bias].clone()
        bias[self._rows] = affine.bias.to(bias.dtype)
        return {self.weight: weight, self.bias: bias}


def _float64(checkpoint: Mapping[str, Tensor], name: str) -> Tensor:
    tensor = checkpoint[name].to(torch.float64)
    if not bool(torch.isfinite(tensor).all()):
        raise BadInput(f"The tensor {name!r} holds NaN or infinity; expected finite weights, so check the checkpoint.")
    return tensor
