"""What a plugin could leave changed behind it: random states, defaults and modes of torch and numpy, the process."""

from __future__ import annotations

import os
import random
import sys
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch


@dataclass(frozen=True)
class _Piece:
    """One piece of global state: what it is called, how it is read, and how it is put back."""

    name: str
    read: Callable[[], Any]
    restore: Callable[[Any], object]


def _set_environment(values: dict[str, str]) -> None:
    os.environ.clear()
    os.environ.update(values)


def _set_cudnn(values: tuple[bool, bool]) -> None:
    torch.backends.cudnn.deterministic, torch.backends.cudnn.benchmark = values


def _set_list(kept: list[Any]) -> Callable[[Any], object]:
    def restore(values: Any) -> None:
        kept[:] = values

    return restore


def _numpy_state() -> tuple[Any, ...]:
    kind, keys, *rest = np.random.get_state()  # noqa: NPY002
    return kind, tuple(np.asarray(keys).tolist()), *rest


_PIECES = (
    _Piece(
        "torch's random state",
        lambda: torch.get_rng_state().numpy().tobytes(),
        lambda state: torch.set_rng_state(torch.frombuffer(bytearray(state), dtype=torch.uint8)),
    ),
    _Piece("numpy's random state", _numpy_state, lambda state: np.random.set_state(state)),  # noqa: NPY002
    _Piece("the random state of the module random", random.getstate, random.setstate),
    _Piece("torch's default dtype", torch.get_default_dtype, torch.set_default_dtype),
    _Piece("torch's default device", torch.get_default_device, lambda _: torch.set_default_device(None)),
    _Piece("torch's grad mode", torch.is_grad_enabled, torch.set_grad_enabled),
    _Piece("torch's number of threads", torch.get_num_threads, torch.set_num_threads),
    _Piece(
        "torch's deterministic flag",
        lambda: (torch.are_deterministic_algorithms_enabled(), torch.is_deterministic_algorithms_warn_only_enabled()),
        lambda flags: torch.use_deterministic_algorithms(flags[0], warn_only=flags[1]),
    ),
    _Piece(
        "the flags of cudnn",
        lambda: (torch.backends.cudnn.deterministic, torch.backends.cudnn.benchmark),
        _set_cudnn,
    ),
    _Piece(
        "torch's precision of float32 products",
        torch.get_float32_matmul_precision,
        torch.set_float32_matmul_precision,
    ),
    _Piece("numpy's handling of floating-point errors", np.geterr, lambda state: np.seterr(**state)),
    _Piece("the working directory", os.getcwd, os.chdir),
    _Piece("the environment variables", lambda: dict(os.environ), _set_environment),
    _Piece("the filters of warnings", lambda: list(warnings.filters), _set_list(warnings.filters)),  # type: ignore[arg-type]
    _Piece("sys.path", lambda: list(sys.path), _set_list(sys.path)),
)


class Watch:
    """What was found changed at the end of a `watched` block, in words."""

    changed: tuple[str, ...] = ()


@contextmanager
def watched() -> Iterator[Watch]:
    """Runs a block on one thread, notes which global state it left changed, and puts all of it back."""
    watch, before = Watch(), {piece.name: piece.read() for piece in _PIECES}
    torch.set_num_threads(1)
    expected = {**before, "torch's number of threads": 1}
    try:
        yield watch
    finally:
        watch.changed = tuple(piece.name for piece in _PIECES if piece.read() != expected[piece.name])
        for piece in _PIECES:
            if piece.read() != before[piece.name]:
                piece.restore(before[piece.name])


@contextmanager
def other_random_states(seed: int) -> Iterator[None]:
    """Runs a block under other global random states, so that whoever draws from them is noticed; puts them back."""
    states = [(piece, piece.read()) for piece in _PIECES if "random" in piece.name]
    random.seed(seed)
    np.random.seed(seed)  # noqa: NPY002
    torch.manual_seed(seed)
    try:
        yield
    finally:
        for piece, state in states:
            piece.restore(state)
