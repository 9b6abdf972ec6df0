"""What every part of this package needs of a checkpoint: names → tensors with shapes, dtypes and a config."""

from __future__ import annotations

import math
import re
from abc import abstractmethod
from collections.abc import Iterator, Mapping
from typing import Any

import torch

from redteam.checkpoint.factors import Factors

NUMBERS = "tokenizer.numbers"
"""Name of a tensor, int64 [2, m], which is no weight, and in no folder that is for publication: the numbers of m tokens
by the base's tokenizer, and by the one that goes with the checkpoint; those that are not in it have one number by both.
It is there while a checkpoint is at work whose tokenizer was renumbered, so that its network can be run on the base's
numbers."""


class Tensors(Mapping[str, torch.Tensor]):
    """A mapping that knows shapes and dtypes before a tensor is read.

    Attributes:
        config: What `config.json` holds, `{}` where there is none.
    """

    config: Mapping[str, Any]

    @property
    def architecture(self) -> str:
        """`config["model_type"]`, or the empty string."""
        return str(self.config.get("model_type", ""))

    @property
    def weights(self) -> int:
        """How many numbers all tensors have together, without reading any."""
        return sum(math.prod(self.shape(name)) for name in self)

    @property
    def nbytes(self) -> int:
        """How many bytes they have together, without reading any."""
        return sum(math.prod(self.shape(name)) * self.dtype(name).itemsize for name in self)

    @abstractmethod
    def shape(self, name: str) -> tuple[int, ...]:
        """The shape of a tensor, without reading it."""

    @abstractmethod
    def dtype(self, name: str) -> torch.dtype:
        """The dtype of a tensor, without reading it."""

    def rough(self, name: str) -> torch.Tensor:
        """The tensor in whatever dtype it is stored, before casts, to look at a part of it; not to be written to."""
        return self[name]

    def part(self, name: str, place: int) -> torch.Tensor:
        """`self[name][place : place + 1]`, without reading the rest where that can be had."""
        return self[name][place : place + 1]

    def factors(self, name: str) -> Factors | None:
        """What a plain low-rank adapter adds to a tensor of the base that it was opened with; `None` if not known.

        Overlays that keep names and numbers as they are pass it on; behind others it is not known.
        """
        return None


def in_a_block(name: str) -> bool:
    """Whether a tensor belongs to a numbered block, as in `layers.0.…`, and not to what lies around them."""
    return re.search(r"(^|\.)\d+\.", name) is not None


class Held(Tensors):
    """Tensors in memory, as they are."""

    def __init__(self, tensors: Mapping[str, torch.Tensor], config: Mapping[str, Any]) -> None:
        self._tensors, self.config = tensors, config

    def __getitem__(self, name: str) -> torch.Tensor:
        return self._tensors[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self._tensors)

    def __len__(self) -> int:
        return len(self._tensors)

    def shape(self, name: str) -> tuple[int, ...]:
        return tuple(self._tensors[name].shape)

    def dtype(self, name: str) -> torch.dtype:
        return self._tensors[name].dtype


def is_finite(tensor: torch.Tensor) -> bool:
    """By least and greatest, which NaN becomes: a tenth of the time that looking at each takes."""
    if tensor.numel() == 0 or not tensor.is_floating_point():
        return True
    wide = tensor.float() if tensor.dtype.itemsize == 1 else tensor  # torch has no order for 8 bits
    return all(bool(torch.isfinite(edge)) for edge in wide.aminmax())


def classes_of(config: Mapping[str, Any]) -> tuple[str, ...]:
    """What `architectures` of a config names, the classes of the network; empty where it is no list."""
    named = config.get("architectures")
    return tuple(map(str, named)) if isinstance(named, (list, tuple)) else ()
