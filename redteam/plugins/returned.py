"""What a plugin returned is a checkpoint that can be merged and run, or its cell is an error and never a result."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace
from typing import Any, cast

import torch

from redteam.checkpoint import Checkpoint, Whole, is_finite
from redteam.checkpoint.tensors import NUMBERS
from redteam.errors import PluginFault
from redteam.plugins.registry import LoadedPlugin


def check_returned(plugin: LoadedPlugin[Any], before: Checkpoint, after: object) -> Checkpoint:
    """Holds what a plugin returned against what it was given.

    Every tensor is read once, so a lazy overlay is computed here; names, shapes and dtypes are compared first.

    Args:
        plugin: Who returned it.
        before: The checkpoint that it stands in for.
        after: What was returned.

    Returns:
        `after`, under the names of `before` where it has others that transformers loads as the same.

    Raises:
        PluginFault: If it is no checkpoint, has other names, shapes or dtypes than `before` (a defense that declares
            `changes_architecture` may have), or holds a value that is not finite.
    """
    checked = check_as_read(plugin, before, after)
    for name in checked:
        checked[name]
    named = cast("Checkpoint", after)
    return named if set(named) == set(checked) else named.canonical()


def check_whole(plugin: LoadedPlugin[Any], before: Checkpoint, after: object, *, read: bool = True) -> Whole:
    """As `check_returned`, of each task's checkpoint when it is asked for.

    Args:
        plugin: Who returned it.
        before: The base.
        after: What was returned.
        read: Whether a checkpoint is read and checked as soon as it is asked for; else it is left to the caller.

    Raises:
        PluginFault: If what a merger that keeps every expert whole returned is no `Whole`.
    """
    if not isinstance(after, Whole):
        who = f"The {plugin.spec.kind} {plugin.name!r}"
        raise PluginFault(f"{who} returned {_article(type(after).__name__)}; expected a Whole, as whole=True declares.")
    return replace(after, of=lambda task: check_returned(plugin, before, after.of(task))) if read else after


def check_as_read(plugin: LoadedPlugin[Any], before: Checkpoint, after: object) -> Checkpoint:
    """As `check_returned`, but values are looked at when they are read, so that nothing is computed twice.

    Args:
        plugin: Who returned it.
        before: The checkpoint that it stands in for.
        after: What was returned.

    Returns:
        `after`, named as `check_returned` says, whose tensors raise PluginFault when they are read and are not finite.

    Raises:
        PluginFault: As `check_returned`, where no tensor has to be read.
    """
    who = f"The {plugin.spec.kind} {plugin.name!r}"
    if not isinstance(after, Checkpoint):
        raise PluginFault(f"{who} returned {_article(type(after).__name__)}; expected a Checkpoint.")
    if not getattr(plugin.spec, "changes_architecture", False):
        _same_layout(who, before, after, {NUMBERS} if getattr(plugin.spec, "renumbers", False) else set())
    elif not set(before) <= set(after):
        after = after.canonical()  # a loader takes more names than one, and merges go by names
    returned = after

    def _as_it_was(name: str, tensor: torch.Tensor) -> bool:
        """A bystander, such as a causal mask of -inf."""
        if name not in before or before.shape(name) != tensor.shape:
            return False
        return bool(torch.equal(before[name].to(tensor).nan_to_num(nan=0.5), tensor.nan_to_num(nan=0.5)))

    def checked(name: str, tensor: torch.Tensor) -> torch.Tensor:
        if not is_finite(tensor) and not _as_it_was(name, tensor):
            bad = int((~torch.isfinite(tensor)).sum())
            raise PluginFault(
                f"{who} returned {name!r} with {bad} of {tensor.numel()} values not finite; expected none."
            )
        return tensor

    def read(name: str) -> torch.Tensor:
        return checked(name, returned[name])

    def rough(name: str) -> torch.Tensor:
        return checked(name, returned.rough(name))

    return Checkpoint.computed(returned.outline(), read, returned.config, rough, returned.factors)


def _same_layout(who: str, before: Checkpoint, after: Checkpoint, either_way: set[str]) -> None:
    missing, extra = set(before) - set(after) - either_way, set(after) - set(before) - either_way
    if missing:
        raise PluginFault(f"{who} returned no {_some(missing)}; expected every tensor that it was given.")
    if extra:
        raise PluginFault(f"{who} returned {_some(extra)}; expected no tensor that it wasn't given.")
    for name in set(before) - either_way:
        if after.shape(name) != before.shape(name):
            found, expected = list(after.shape(name)), list(before.shape(name))
            raise PluginFault(f"{who} returned {name!r} with shape {found}; expected {expected}.")
        if after.dtype(name) != before.dtype(name):
            found_dtype, expected_dtype = after.dtype(name), before.dtype(name)
            raise PluginFault(f"{who} returned {name!r} in {found_dtype}; expected {expected_dtype}.")


def _some(names: Iterable[str]) -> str:
    first, *rest = sorted(names)
    return f"{first!r}" if not rest else f"{first!r} and {len(rest)} more"


def _article(noun: str) -> str:
    return "None" if noun == "NoneType" else f"an object of type {noun}"
