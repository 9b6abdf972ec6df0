"""Which group of gauges is contained in which: the one place where that is written down."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from functools import cache
from typing import Literal

from redteam.errors import UnknownName

Layout = Literal["half", "interleaved"]
"""Where the two rows of a rotary plane lie in a head of n rows: i and i + n/2 (Hugging Face), or 2i and 2i + 1."""

_NEXT: Mapping[str, tuple[str, ...]] = {
    "permutation": ("mirrored-permutation", "positive-scaled-permutation"),
    "plane-signs": ("signed-permutation", "plane-scaling"),
    "positive-scaling": ("scaling", "positive-scaled-permutation"),
    "mirrored-permutation": ("signed-permutation",),
    "plane-scaling": ("scaling", "planar"),
    "signed-permutation": ("orthogonal", "scaled-permutation"),
    "scaling": ("scaled-permutation",),
    "planar": ("general-linear",),
    "partial-planar": ("general-linear",),
    "positive-scaled-permutation": ("scaled-permutation",),
    "scaled-permutation": ("general-linear",),
    "orthogonal": ("general-linear",),
    "general-linear": (),
}  # group → the groups right above it; what stands further down is never contained in what stands higher up

GROUPS = tuple(_NEXT)
"""Names of the groups, each before those that contain it."""


@cache
def supergroups(name: str) -> frozenset[str]:
    """The groups that an element of a group belongs to: the group itself, and all that contain it.

    Raises:
        UnknownName: If there is no such group.
    """
    if name not in _NEXT:
        raise UnknownName.among("group", name, GROUPS)
    return frozenset({name}).union(*(supergroups(above) for above in _NEXT[name]))


@cache
def subgroups(name: str) -> frozenset[str]:
    """The group itself, and all that it contains: what is legal where its elements are.

    Raises:
        UnknownName: If there is no such group.
    """
    supergroups(name)
    return frozenset(each for each in GROUPS if name in supergroups(each))


def smallest(names: Collection[str]) -> str:
    """The one of some groups that contains none of the others; the first of them if there are several."""
    return next(name for name in GROUPS if name in names)


def largest_group(names: Collection[str]) -> str:
    """The last of some groups in the order of `GROUPS`: one that no other of them contains."""
    return next(name for name in reversed(GROUPS) if name in names)


def listed(names: Collection[str]) -> str:
    """The largest of some groups in words: those that no other of them contains."""
    return ", ".join(name for name in GROUPS if name in names and supergroups(name).isdisjoint(set(names) - {name}))
