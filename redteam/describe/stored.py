"""How the maps that a guess names may lie in the tensors of a stack, and what lies beside them."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import replace
from typing import Any

from redteam.anatomy import Architecture
from redteam.describe.roles import Stack

_FUSED: tuple[dict[str, Any], ...] = ({}, {"interleaved": True}, {"shards": 4})
"""In which orders queries, keys and values may lie in one tensor."""


def stored(guess: Architecture, stack: Stack, width: int) -> Iterator[Architecture]:
    """How a guess may lie in its tensors."""
    shapes = {one.stem: one.shape for one in stack.maps}
    fused = guess.query is not None and guess.query == guess.key
    up = shapes.get(guess.up or "", ())
    told = len(up) == 2 and up[0] != up[1] and not guess.packed
    ways = [up[0] == width] if told else [False] if guess.packed else [False, True]
    plain = guess.query is not None and guess.latent is None
    flags: dict[str, Any] = {
        "gated_output": plain and not fused and _doubled(guess, shapes),
        "beside_embeddings": plain and shapes[guess.query or ""][1] == 2 * width == 2 * shapes[guess.output or ""][0],
    }
    for transposed in ways:
        for order in _FUSED if fused else _FUSED[:1]:
            one = replace(guess, transposed=transposed, sparse=True, **flags, **order)
            biases, adapters = tuple(_biases_apart(one, stack)), tuple(_adapters(one, shapes))
            for beside in dict.fromkeys((tuple(_with_neurons(one, stack, width)), ())):
                yield replace(one, biases=biases, adapters=adapters, with_neurons=beside)


def _doubled(guess: Architecture, shapes: Mapping[str, tuple[int, ...]]) -> bool:
    return shapes[guess.query or ""][0] == 2 * shapes[guess.output or ""][1]


def _adapters(guess: Architecture, stems: Iterable[str]) -> Iterator[tuple[str, str, str]]:
    """Pairs of maps in a list beside a map, which is called by the first word of the map's name."""
    lists = [stem.removesuffix(".{use}.0") for stem in stems if stem.endswith(".{use}.0")]
    for stem in dict.fromkeys((guess.query, guess.key, guess.value, guess.gate, guess.up)):
        parent, _, own = (stem or "").rpartition(".")
        for name in lists:
            beside, _, called = name.rpartition(".")
            if stem and beside == parent and own.partition("_")[0] in called.split("_"):
                yield stem, f"{name}.{{use}}.0", f"{name}.{{use}}.1"


def ends(shape: tuple[int, ...]) -> tuple[int, ...]:
    """The first dimension and the last."""
    return shape[:1] + shape[1:][-1:]


def _biases_apart(guess: Architecture, stack: Stack) -> Iterator[tuple[str, str]]:
    """Biases that are called by the role of a map alone, beside a map that has none."""
    for role in ("query", "key", "value"):
        stem = getattr(guess, role)
        if stem is not None and f"{stem}.bias" not in stack.tensors:
            root = stem.rpartition(".")[0]
            names = (f"{root}.{role[0]}_bias", f"{root}.{role}_bias")
            yield from ((role, name) for name in names if name in stack.tensors)


def _with_neurons(guess: Architecture, stack: Stack, width: int) -> Iterator[str]:
    """What has as many rows or columns as an MLP has neurons, and is none of its maps."""
    shapes = {one.stem: one.shape for one in stack.maps}
    if guess.down is None or guess.router is not None:
        return
    neurons = max(size for size in shapes[guess.down] if size != width or shapes[guess.down] == (width, width))
    mine = [f"{stem}.{which}" for stem in (guess.up, guess.gate, guess.down) for which in ("weight", "bias")]
    for name, shape in stack.tensors.items():
        if name not in mine and neurons in ends(shape) and neurons != width:
            yield name


def half_run(guess: Architecture, stack: Stack, unread: Iterable[str]) -> bool:
    """Whether an attention has maps that no input reached: on others they may read and write what its own do."""
    if guess.query is None:
        return False
    beside = guess.query.rpartition(".")[0] + "."
    inside = (re.sub(r"\d+", "{layer}", name.removeprefix(stack.root), count=1) for name in unread)
    return any(f"{stack.root}{name}".startswith(beside) for name in inside)
