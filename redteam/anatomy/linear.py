"""Linear maps as they lie in a checkpoint: which tensor, which rows of it, which bias, which norm they read."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from typing import ClassVar

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
        offset: What is added to the stored gain (Gemma multiplies by 1 + γ).
        beyond: How many further inputs the projection has, which do not come from the norm.
    """

    weight: str
    bias: str | None
    centred: bool = True
    offset: float = 0.0
    beyond: int = 0

    def read(self, checkpoint: Mapping[str, Tensor]) -> tuple[Tensor, Tensor]:
        """γ and β in float64, [in] each; β is zero where there is none, and beyond the norm γ is one and β zero."""
        gain = read_float64(checkpoint, self.weight) + self.offset
        shift = torch.zeros_like(gain) if self.bias is None else read_float64(checkpoint, self.bias)
        return torch.cat([gain, gain.new_ones(self.beyond)]), torch.cat([shift, shift.new_zeros(self.beyond)])


@dataclass(frozen=True)
class Rows:
    """Which rows of a fused tensor belong to one of its projections.

    Attributes:
        start: The first of them.
        count: How many there are.
        block: How many follow one another without a gap; all of them by default.
        stride: From the start of one block to the start of the next (interleaved layouts).
    """

    start: int
    count: int
    block: int = 0
    stride: int = 0

    def of(self, stored: Tensor) -> Tensor:
        """Those rows, [count, …]: a view where they follow one another, else [count / block, block, …], a view too."""
        if not self.block:
            return stored[self.start : self.start + self.count]
        cut = stored.reshape(-1, self.stride, *stored.shape[1:])
        return cut[:, self.start : self.start + self.block]


@dataclass(frozen=True)
class Packed:
    """Where in a tensor of three dimensions, an expert in each slice, a map lies.

    Attributes:
        start, step: The first of an expert's rows, and from one to the next.
        count: How many rows it has of each expert.
        side: Whether experts' columns stand side by side, [rows, experts · columns], and not their rows one below the
            other, [experts · rows, columns].
        transposed: Whether a slice is stored [in, out].
        expert: The one expert that is meant, all by default.
    """

    start: int
    count: int
    step: int = 1
    side: bool = False
    transposed: bool = False
    expert: int | None = None

    def of(self, stored: Tensor) -> Tensor:
        """Those rows of [experts, …] or of biases [experts, out]: a view, [experts, rows, …] or [rows, experts, …]."""
        stored = stored if self.expert is None else stored[self.expert : self.expert + 1]
        slices = stored.mT if self.transposed and stored.ndim == 3 else stored
        own = slices[:, self.start : self.start + self.count * self.step : self.step]
        return own.transpose(0, 1) if self.side else own


@dataclass(frozen=True)
class Linear:
    """A linear map in a checkpoint, perhaps a part of a fused tensor.

    A norm's gain is one from a single number; a convolution is one from in · height · width numbers, and its kernel is
    read with the last two dimensions inside the columns of a channel.

    Attributes:
        weight: Name of the tensor.
        bias: Name of the bias, None where there is none.
        norm: The norm whose output it reads, None if it reads something else.
        writes_centred: Whether it writes to a stream that only centred norms read, so that the mean of what it writes
            is never seen.
        bias_free: Whether the function leaves its bias free (a key bias under softmax; a value bias, which the output
            bias can take up).
        bias_bound: Head width and how many of each head's dimensions have a bias that the function does see, where
            others are free: keys of which a rotary embedding turns a part.
        rows: Which output rows of a fused tensor are its own, all by default.
        transposed: Whether the tensor is stored [in, out].
        offset: What is added to the stored weight.
        packed: Where it lies, if it is the experts' part of one tensor.
        bias_apart: Whether its bias is a whole tensor, whatever its rows are.
    """

    weight: str
    bias: str | None
    norm: Norm | None = None
    writes_centred: bool = False
    bias_free: bool = False
    bias_bound: tuple[int, int] | None = None
    rows: Rows | None = None
    transposed: bool = False
    offset: float = 0.0
    packed: Packed | None = None
    bias_apart: bool = False

    @property
    def names(self) -> tuple[str, ...]:
        """The tensors it lies in."""
        return (self.weight,) if self.bias is None else (self.weight, self.bias)

    @property
    def reads_centred(self) -> bool:
        """Whether `W ← W + c (1/γ)ᵀ, b ← b − c Σ β/γ` is free."""
        return self.norm is not None and self.norm.centred and (self.norm.bias is None or self.bias is not None)

    def bound(self, bias: Tensor) -> Tensor:
        """1.0 where the function sees the bias and 0.0 where it leaves it free, [out]."""
        if self.bias_free:
            return torch.zeros_like(bias)
        if self.bias_bound is None:
            return torch.ones_like(bias)
        width, seen = self.bias_bound
        kept = torch.zeros(width, dtype=bias.dtype, device=bias.device)
        kept[:seen] = 1.0
        return kept.repeat(len(bias) // width)

    def _rows(self, stored: Tensor) -> Tensor:
        if self.packed is not None:
            return self.packed.of(stored)
        return stored if self.rows is None else self.rows.of(stored)

    def _biases(self, stored: Tensor) -> Tensor:
        return stored if self.bias_apart else self._rows(stored)

    def _own(self, weight: Tensor) -> Tensor:
        """The part of a stored weight that is this map's, rows first: a view."""
        if self.packed is not None:
            return self.packed.of(weight)
        if weight.ndim != 2:
            weight = weight.reshape(-1, weight.shape[-1]) if weight.ndim == 3 else weight.flatten(1)
        return self._rows(weight.T if self.transposed else weight)

    def _flat(self, own: Tensor) -> Tensor:
        return own.flatten(1) if self.packed is not None and self.packed.side else own.reshape(-1, own.shape[-1])

    def outputs(self, shape: tuple[int, ...]) -> int:
        """How many rows it has, given the shape of the tensor that it lies in."""
        if self.packed is not None:
            one = self.packed.side or self.packed.expert is not None
            return self.packed.count * (1 if one else shape[0])
        return shape[-1 if self.transposed else 0] if self.rows is None else self.rows.count

    def inputs(self, shape: tuple[int, ...]) -> int:
        """How many columns it has, given the shape of the tensor that it lies in."""
        if self.packed is not None:
            columns = shape[1 if self.packed.transposed else 2]
            several = self.packed.side and self.packed.expert is None
            return shape[0] * columns if several else columns
        if len(shape) < 3:
            return 1 if len(shape) == 1 else shape[0 if self.transposed else 1]
        columns = shape[-1] if len(shape) == 3 else math.prod(shape[1:])
        return math.prod(shape) // columns if self.transposed else columns

    def read(self, checkpoint: Mapping[str, Tensor]) -> Affine:
        """The map, in float64.

        Raises:
            BadInput: If a tensor holds NaN or infinity.
        """
        if self.packed is not None and self.packed.expert is not None:
            packed, place = replace(self.packed, expert=None), self.packed.expert
            alone = {name: _part(checkpoint, name, place) for name in self.names}
            return replace(self, packed=packed).read(alone)
        stored = read_float64(checkpoint, self.weight)
        weight = self._flat(self._own(stored[:, None] if stored.ndim == 1 else stored))
        bias = None if self.bias is None else self._biases(read_float64(checkpoint, self.bias)).reshape(-1)
        return Affine(weight + self.offset if self.offset else weight, bias)

    def sampled(self, stored: Tensor, *, rows: Tensor | None = None, columns: Tensor | None = None) -> Tensor:
        """Some rows or columns of its weight in float64, given the tensor that it lies in.

        Args:
            stored: Of any dtype; it is converted where it was chosen.
            rows: Which outputs, all by default.
            columns: Which inputs, all by default.

        Raises:
            BadInput: If NaN or infinity is among them.
        """
        own = self._own(stored[:, None] if stored.ndim == 1 else stored)
        if own.ndim > 2:
            own = self._flat(own)
        own = own if rows is None else own[rows]
        own = own if columns is None else own[:, columns]
        return _finite(own.to(torch.float64), self.weight) + self.offset

    def write(self, checkpoint: Mapping[str, Tensor], affine: Affine) -> dict[str, Tensor]:
        """The tensors it lies in with `affine` in its place, in their own dtype; a fused tensor's other rows stay."""
        draft = Draft.of(checkpoint)
        weight = draft.begun(self.weight)
        own = self._own(weight[:, None] if weight.ndim == 1 else weight)
        own.copy_((affine.weight - self.offset if self.offset else affine.weight).reshape(own.shape))
        if self.bias is None or affine.bias is None:
            return {self.weight: weight}
        bias = draft.begun(self.bias)
        mine = self._biases(bias)
        mine.copy_(affine.bias.reshape(mine.shape))
        return {self.weight: weight, self.bias: bias}


@dataclass(frozen=True)
class Gathered:
    """Maps of one shape, each in tensors of its own, as one: their rows follow one another.

    Attributes:
        linears: At least one of them.
    """

    linears: tuple[Linear, ...]
    writes_centred: ClassVar[bool] = False
    bias_free: ClassVar[bool] = False
    bias_bound: ClassVar[None] = None
    rows: ClassVar[None] = None

    @property
    def norm(self) -> Norm | None:
        """The norm whose output all of them read."""
        return self.linears[0].norm

    @property
    def reads_centred(self) -> bool:
        """As `Linear.reads_centred`."""
        return self.linears[0].reads_centred

    @property
    def weight(self) -> str:
        """Name of the first weight."""
        return self.linears[0].weight

    @property
    def bias(self) -> str | None:
        """Name of the first bias, None where there is none."""
        return self.linears[0].bias

    @property
    def names(self) -> tuple[str, ...]:
        """The tensors they lie in."""
        return tuple(name for linear in self.linears for name in linear.names)

    def bound(self, bias: Tensor) -> Tensor:
        """As `Linear.bound`."""
        return torch.ones_like(bias)

    def read(self, checkpoint: Mapping[str, Tensor]) -> Affine:
        """All maps as one, in float64; raises as `Linear.read`."""
        maps = [linear.read(checkpoint) for linear in self.linears]
        biases = [affine.bias for affine in maps if affine.bias is not None]
        return Affine(torch.cat([affine.weight for affine in maps]), torch.cat(biases) if biases else None)

    def write(self, checkpoint: Mapping[str, Tensor], affine: Affine) -> dict[str, Tensor]:
        """As `Linear.write`."""
        weights = affine.weight.chunk(len(self.linears))
        biases = [None] * len(weights) if affine.bias is None else affine.bias.chunk(len(weights))
        draft = Draft.of(checkpoint)
        for linear, weight, bias in zip(self.linears, weights, biases, strict=True):
            linear.write(draft, Affine(weight, bias))
        return draft.tensors


class Draft(Mapping[str, Tensor]):
    """A checkpoint some of whose tensors are being rewritten, each copied once, however many maps lie in it.

    Attributes:
        tensors: Those that were begun.
    """

    def __init__(self, checkpoint: Mapping[str, Tensor]) -> None:
        self._checkpoint = checkpoint
        self.tensors: dict[str, Tensor] = {}

    @classmethod
    def of(cls, checkpoint: Mapping[str, Tensor]) -> Draft:
        """The checkpoint itself if it is a draft, else a new draft of it."""
        return checkpoint if isinstance(checkpoint, Draft) else cls(checkpoint)

    def begun(self, name: str) -> Tensor:
        """The tensor to write into."""
        if name not in self.tensors:
            self.tensors[name] = self._checkpoint[name].clone(memory_format=torch.contiguous_format)
        return self.tensors[name]

    def part(self, name: str, place: int) -> Tensor:
        """One slice of a tensor's first dimension, which stays."""
        return _part(self.tensors if name in self.tensors else self._checkpoint, name, place)

    def __getitem__(self, name: str) -> Tensor:
        return self.tensors[name] if name in self.tensors else self._checkpoint[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self._checkpoint)

    def __len__(self) -> int:
        return len(self._checkpoint)


def _part(checkpoint: Mapping[str, Tensor], name: str, place: int) -> Tensor:
    look = getattr(checkpoint, "part", None)
    found: Tensor = checkpoint[name][place : place + 1] if look is None else look(name, place)
    return found


def read_float64(checkpoint: Mapping[str, Tensor], name: str) -> Tensor:
    """A tensor in float64; raises BadInput if it holds NaN or infinity."""
    return _finite(checkpoint[name].to(torch.float64), name)


def _finite(tensor: Tensor, name: str) -> Tensor:
    if not bool(tensor.sum().isfinite()) and not bool(tensor.isfinite().all()):  # the sum is ten times as fast
        raise BadInput(f"The tensor {name!r} holds NaN or infinity; expected finite weights, so check the checkpoint.")
    return tensor
