"""Parts that two networks have in common, run once: what one computed is handed to the other."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager

import torch
from torch import nn


def common_parts(one: nn.Module, another: nn.Module, same: set[str], path: str = "") -> tuple[str, ...]:
    """Paths of the largest submodules whose tensors are the same in two networks: all but heads, as a rule.

    Args:
        one: A network.
        another: A network of the same kind.
        same: Tensors that will be the same, whatever they are now.
        path: Where in a larger network both of them are.
    """
    found: list[str] = []
    others = dict(another.named_children())
    for name, child in one.named_children():
        other, here = others.get(name), f"{path}.{name}" if path else name
        if type(other) is not type(child):
            continue
        there = other.state_dict()
        alike = {
            key: value.shape == there[key].shape and (f"{here}.{key}" in same or torch.equal(value, there[key]))
            for key, value in child.state_dict().items()
            if key in there
        }
        if alike and len(alike) == len(there) and all(alike.values()):
            found.append(here)
        else:
            found += common_parts(child, other, same, here)
    return tuple(found)


@contextmanager
def recorded(network: nn.Module, parts: Sequence[str]) -> Iterator[dict[str, list[object]]]:
    """While it is active, keeps what parts of a network give, call by call."""
    outputs: dict[str, list[object]] = {part: [] for part in parts}
    handles = [
        network.get_submodule(part).register_forward_hook(lambda _, __, output, kept=kept: kept.append(output))
        for part, kept in outputs.items()
    ]
    try:
        yield outputs
    finally:
        for handle in handles:
            handle.remove()


@contextmanager
def replayed(network: nn.Module, outputs: Mapping[str, Sequence[object]]) -> Iterator[None]:
    """While it is active, parts of a network give what they are said to give in place of computing it.

    Raises:
        StopIteration: Where a part is asked more often than it has answers, from the network's forward pass.
    """
    parts = [network.get_submodule(part) for part in outputs]
    for part, kept in zip(parts, outputs.values(), strict=True):
        left = iter(kept)
        part.forward = lambda *_, left=left, **__: next(left)
    try:
        yield
    finally:
        for part in parts:
            del part.forward
