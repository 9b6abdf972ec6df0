"""Blocks that two networks have in common: run once, where weights and inputs are the same."""

from __future__ import annotations

import hashlib
import os
import re
import tempfile
import weakref
from collections.abc import Sequence
from contextlib import suppress
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.utils._pytree import TreeSpec, tree_flatten, tree_unflatten

from redteam.checkpoint import Checkpoint

_PLAIN = (bool, int, float, str, type(None))


class _Place(NamedTuple):
    """Where in the file a tensor lies."""

    dtype: torch.dtype
    shape: torch.Size
    start: int
    size: int


class _Answer(NamedTuple):
    """What a block gave out, as `tree_flatten` takes it apart, and where it left the random numbers."""

    leaves: tuple[Any, ...]
    form: TreeSpec
    drawn: Tensor


class Once:
    """What blocks gave out that are the same in two checkpoints, on disk, for the second of two runs to take.

    A block counts as the same where all tensors it is made of are equal, and is answered for where all that it is given
    is equal, too, the state of the random numbers included. One after a block of its stack that was rewritten is not
    looked at, since its inputs differ.

    Args:
        before: A checkpoint.
        after: Another one; with another config nothing is the same.
    """

    def __init__(self, before: Checkpoint, after: Checkpoint) -> None:
        self._before, self._after = before, after
        self._alike = dict(before.config) == dict(after.config) and set(before) == set(after)
        self._seen: dict[str, bool] = {}
        self._rewritten: set[str] = set()
        self._answers: dict[str, _Answer] = {}
        self._file = tempfile.TemporaryFile()  # noqa: SIM115
        weakref.finalize(self, self._file.close)

    def call(self, block: str, names: Sequence[str], given: Any) -> str | None:
        """What tells a call of a block from others; `None` where the block has to run.

        Args:
            block: Its path in the network.
            names: The tensors that it is made of, by their names in the checkpoint.
            given: Its arguments.
        """
        inputs = _digest(given) if self._is_same(block, names) else None
        return None if inputs is None else f"{block} {inputs} {_digest(torch.get_rng_state())}"

    def knows(self, call: str) -> bool:
        """Whether `answer` has one."""
        return call in self._answers

    def answer(self, call: str) -> Any:
        """What the block gave out; random numbers go on as they did then."""
        found = self._answers[call]
        torch.set_rng_state(found.drawn)
        leaves = [self._read(leaf) if isinstance(leaf, _Place) else leaf for leaf in found.leaves]
        return tree_unflatten(leaves, found.form)

    def note(self, call: str, given: Any, output: Any) -> None:
        """Keeps what a block gave out, where that is all that it did and there is room on disk.

        Args:
            call: As it was before the block ran.
            given: Its arguments, after it ran.
            output: What it returned.
        """
        leaves, form = tree_flatten(output)
        wrote = _digest(given) != call.split(" ")[1]  # into what it was given
        if wrote or not all(isinstance(leaf, (Tensor, *_PLAIN)) for leaf in leaves):
            return
        with suppress(OSError):
            kept = tuple(self._write(leaf) if isinstance(leaf, Tensor) else leaf for leaf in leaves)
            self._answers[call] = _Answer(kept, form, torch.get_rng_state())

    def _is_same(self, block: str, names: Sequence[str]) -> bool:
        stack = re.sub(r"\.\d+$", "", block)
        if not self._alike or stack in self._rewritten:
            return False
        same = all(self._equal(name) for name in names)
        if not same:
            self._rewritten.add(stack)
        return same

    def _equal(self, name: str) -> bool:
        if name not in self._seen:
            self._seen[name] = alike(self._before.rough(name), self._after.rough(name))
        return self._seen[name]

    def _write(self, tensor: Tensor) -> _Place:
        start = self._file.seek(0, os.SEEK_END)
        self._file.write(_bytes(tensor).data)
        self._file.flush()
        return _Place(tensor.dtype, tensor.shape, start, tensor.nbytes)

    def _read(self, place: _Place) -> Tensor:
        self._file.seek(place.start)
        data = bytearray(self._file.read(place.size))
        if not data:  # which frombuffer refuses
            return torch.empty(place.shape, dtype=place.dtype)
        return torch.frombuffer(data, dtype=place.dtype).reshape(place.shape)


def alike(one: Tensor, other: Tensor) -> bool:
    """Whether two tensors hold the same numbers, stored as they may be."""
    return torch.equal(*((one, other) if one.dtype == other.dtype else (one.double(), other.double())))


def _digest(given: Any) -> str | None:
    """Of arguments, or `None` where they hold what can change without a trace, or weights."""
    leaves, form = tree_flatten(given)
    digest = hashlib.sha256(str(form).encode())
    for leaf in leaves:
        if isinstance(leaf, nn.Parameter) or not isinstance(leaf, (Tensor, *_PLAIN)):
            return None
        if isinstance(leaf, Tensor):
            digest.update(f"{leaf.dtype} {tuple(leaf.shape)} ".encode())
            digest.update(_bytes(leaf).data)
        else:
            digest.update(f"{type(leaf).__name__} {leaf!r} ".encode())
    return digest.hexdigest()


def _bytes(tensor: Tensor) -> Any:
    return tensor.detach().contiguous().reshape(-1).view(torch.uint8).numpy()
