"""Numbers put on disk until they are compared with others, and compared piece by piece."""

from __future__ import annotations

import math
import tempfile
import weakref
from collections.abc import Iterator

import torch
from torch import Tensor

_PIECE = 2**19  # numbers: what a comparison holds at a time
_SLICE = 2**18  # numbers that are in float64 at a time


class Shelved:
    """A float64 tensor in a temporary file, which is gone as soon as nobody refers to it.

    Raises:
        OSError: If there is no room for it.
    """

    def __init__(self, tensor: Tensor) -> None:
        self._file = tempfile.TemporaryFile()  # noqa: SIM115
        weakref.finalize(self, self._file.close)
        for piece in pieces(tensor):
            self._file.write(piece.contiguous().numpy().data)
        self._file.flush()

    def pieces(self) -> Iterator[Tensor]:
        """Its numbers in order."""
        self._file.seek(0)
        while data := self._file.read(8 * _PIECE):
            yield torch.frombuffer(bytearray(data), dtype=torch.float64)


def shelved(tensor: Tensor | Shelved) -> Tensor | Shelved:
    """A large tensor on disk, if there is room; a small one as it is."""
    if isinstance(tensor, Shelved) or tensor.numel() <= _PIECE:
        return tensor
    try:
        return Shelved(tensor)
    except OSError:
        return tensor


def pieces(x: Tensor | Shelved) -> Iterator[Tensor]:
    """The numbers of a tensor in order, a few at a time."""
    if isinstance(x, Shelved):
        yield from x.pieces()
    else:
        yield from x.reshape(-1).split(_PIECE)


def largest(x: Tensor | Shelved) -> float:
    """`max|x|`; NaN where there is one."""
    return _most(piece.abs() for piece in pieces(x))


def largest_difference(x: Tensor | Shelved, y: Tensor | Shelved) -> float:
    """`max|x - y|` of two that have as many numbers; NaN where there is one."""
    return _most((one - other).abs() for one, other in zip(pieces(x), pieces(y), strict=True))


def squared_distance(x: Tensor, y: Tensor | None = None) -> float:
    """`‖x − y‖²`, or `‖x‖²`, in float64: a few numbers at a time, since all of a large tensor would take gigabytes."""
    slices = x.reshape(-1).split(_SLICE)
    others = slices if y is None else y.reshape(-1).split(_SLICE)
    gaps = (a.double() if y is None else a.double() - b.double() for a, b in zip(slices, others, strict=True))
    return sum(float(gap.square().sum()) for gap in gaps)


def _most(found: Iterator[Tensor]) -> float:
    most = [float(piece.max()) for piece in found]
    return math.nan if any(math.isnan(one) for one in most) else max(most)
