"""Additive freedoms as a lock: shifts that the key's holder can take off again."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Protocol

import numpy as np
import torch

from redteam.anatomy import KINDS, Site, anatomy_of
from redteam.checkpoint import Checkpoint
from redteam.symmetry.shifts import SiteMaps, each_kind, shifts_of


class Reversible(Protocol):
    """Anything that can be put on a checkpoint and taken off again; `redteam.symmetry.Lock` is one."""

    def put_on(self, checkpoint: Checkpoint) -> Checkpoint:
        """The checkpoint with it on."""

    def take_off(self, checkpoint: Checkpoint) -> Checkpoint:
        """The checkpoint without it, given that it is on."""


@dataclass(frozen=True)
class ShiftLock:
    """Every legal additive shift of some kinds of sites, normally distributed; the function stays either way.

    Amounts are measured in what no shift can change (`Shift.unit`), so that they are found again on what was shifted.

    Attributes:
        size: In standard deviations of the weights, taken unit by unit (rows of what reads, columns of what writes), so
            that a lock with small and large rows keeps its digits.
        generators: The random stream of a site, by its label; the same one when asked again (`Key.generator`).
        kinds: Kinds of the sites to shift.
    """

    size: float
    generators: Callable[[str], np.random.Generator]
    kinds: tuple[str, ...] = KINDS

    def put_on(self, checkpoint: Checkpoint) -> Checkpoint:
        """Every shift of every site; lazy."""
        return each_kind(checkpoint, self.kinds, self._shifted)

    def take_off(self, checkpoint: Checkpoint) -> Checkpoint:
        """Every shift taken back, the last one first; lazy."""
        return each_kind(checkpoint, self.kinds[::-1], self._unshifted)

    def _shifted(self, site: Site, parts: SiteMaps, amount: None) -> SiteMaps:
        draws = self.generators(site.label)
        for shift in shifts_of(site):
            unit = shift.unit(parts)
            parts = shift.move(parts, self.size * unit * _normal(draws, unit))
        return parts

    def _unshifted(self, site: Site, parts: SiteMaps, amount: None) -> SiteMaps:
        draws = self.generators(site.label)
        drawn = [(shift, _normal(draws, shift.unit(parts))) for shift in shifts_of(site)]
        for shift, normal in reversed(drawn):
            parts = shift.move(parts, -self.size * shift.unit(parts) * normal)
        return parts


def random_shifts(
    checkpoint: Checkpoint, generator: np.random.Generator, size: float, kinds: Iterable[str] = KINDS
) -> Checkpoint:
    """A checkpoint with a `ShiftLock` on; lazy.

    Args:
        checkpoint: To be shifted.
        generator: Of which one draw per site is taken now, so that the order of reading doesn't matter.
        size: As in `ShiftLock`.
        kinds: Kinds of the sites to shift.

    Raises:
        BadInput: If the architecture is not known, or, when a tensor is read, if one holds NaN or infinity.
    """
    kinds = tuple(dict.fromkeys(kinds))
    labels = [one.label for site in anatomy_of(checkpoint).sites(kinds) for one in site.members or (site,)]
    seeds = dict(zip(labels, generator.integers(0, 2**32, (len(labels), 8), np.uint32), strict=True))
    return ShiftLock(size, lambda label: np.random.default_rng(seeds[label]), kinds).put_on(checkpoint)


def _normal(draws: np.random.Generator, unit: torch.Tensor) -> torch.Tensor:
    return torch.from_numpy(np.asarray(draws.standard_normal(tuple(unit.shape)))).to(unit)
