"""Groups of gauges. Sampling an element is a defense, fitting one to an anchor is an attack."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import fields, replace
from typing import Any, Protocol

import numpy as np

from redteam.anatomy import GROUPS as NAMES
from redteam.anatomy import Site, Stacks, largest_group, subgroups, supergroups
from redteam.errors import IllegalGauge
from redteam.symmetry.gauges import Gauge
from redteam.symmetry.matrix_groups import GeneralLinear, Orthogonal
from redteam.symmetry.permutations import MirroredPermutation, Permutation, SignedPermutation
from redteam.symmetry.rotary import PartialPlanar, Planar, PlaneScaling, PlaneSigns
from redteam.symmetry.scalings import Monomial, PositiveMonomial, PositiveScaling, Scaling


class Group(Protocol):
    """What every group can do."""

    @property
    def name(self) -> str:
        """As in `Site.legal`."""

    def sample(self, batch: int, width: int, generator: np.random.Generator) -> Gauge:
        """A random element for each of `batch` heads of `width` dimensions, float64 on the CPU."""

    def fit(self, moving: Stacks, target: Stacks) -> Gauge:
        """The element that brings `moving` closest to `target`, by the tied objective unless an option says else."""


GROUPS: Mapping[str, type[Group]] = {
    group.name: group
    for group in (
        Permutation,
        MirroredPermutation,
        PlaneSigns,
        SignedPermutation,
        PositiveScaling,
        PlaneScaling,
        Scaling,
        Planar,
        PartialPlanar,
        PositiveMonomial,
        Monomial,
        Orthogonal,
        GeneralLinear,
    )
}
"""Name → group; `redteam.anatomy.supergroups` says which is contained in which."""


def contains_group(larger: type[Group], smaller: type[Group]) -> bool:
    """Whether every element of `smaller` is one of `larger`, given the same layout of rotary planes.

    A group contains itself; a subclass that draws its elements otherwise counts as the group that it names.

    Raises:
        UnknownName: If `smaller` names none of `GROUPS`.
    """
    return larger().name in supergroups(smaller().name)


def at(group: Group, site: Site) -> Group:
    """The group with the layout of a site's rotary planes, where it has any, and the power of its factors there."""
    known = {field.name for field in fields(group)}  # type: ignore[arg-type]
    told: dict[str, Any] = {"layout": site.planes, "turned": site.turned, "power": site.power}
    told = {name: value for name, value in told.items() if name in known and value is not None}
    return replace(group, **told) if told else group  # type: ignore[type-var]


def largest_legal_group(site: Site) -> Group:
    """The largest group that is legal at a site, with its default settings."""
    return at(GROUPS[largest_group(site.legal)](), site)


def adapted(group: Group, site: Site) -> Group:
    """The largest part of a group that is legal at a site, of the same strength: the group itself where it is legal.

    Raises:
        IllegalGauge: If no part of it is legal there.
    """
    if group.name in site.legal:
        return at(group, site)
    legal = subgroups(group.name) & site.legal
    if not legal:
        site.require_group(group.name, frozenset({group.name}), None)
        raise IllegalGauge(f"No part of the {group.name} group is legal at {site.label}.")
    smaller = GROUPS[max(legal, key=NAMES.index)]()
    if {"scale"} <= {f.name for f in fields(group)} & {f.name for f in fields(smaller)}:  # type: ignore[arg-type]
        smaller = replace(smaller, scale=group.scale)  # type: ignore[type-var,attr-defined]
    return at(smaller, site)
