"""Which lock is on a site: the smallest group whose fit explains the distance to the base.

Fine-tuning moves weights too, and a larger group always fits a little better. So a group, the trivial one included,
is believed only where it at least halves the squared distance that the next smaller one leaves, after each cost is
divided by what a fit of that group leaves of pure noise (1 − p/N for p dimensions and N weights). On the experts of the
scenario digits the largest legal group takes 0.3 to 3 % off, which is less than noise would allow; a random lock is 10 to
1000 times as far from the base as its fit. A lock that moves the weights by less than training did is not told from
training, and keeps nobody from merging.
"""

from __future__ import annotations

from dataclasses import dataclass, fields, replace
from typing import Any

import numpy as np
import torch
from torch import Tensor

from redteam.anatomy import GROUPS as NAMES
from redteam.anatomy import Site, Stacks
from redteam.symmetry import GROUPS, Gauge, Group
from redteam.symmetry.groups import widest

HALVED = 2.0
"""How many times as far from the base a smaller group must leave the site (squared) before a larger one is believed."""
STRANGER = 1.0
"""Squared distance to the base, in units of its squared norm, from which on nothing is explained: zero weights are as
close. Independent networks of one size stand at 2, and at about 1.5 after the best fit."""

_FLOOR = 1e-9  # relative distances below this, or below the rounding of what is stored, are rounding
_NOISE = 1e-2  # size of the noise whose fit is tried, in units of the base's norm


@dataclass(frozen=True, eq=False)
class Explained:
    """What explains the distance between two stacks.

    Attributes:
        gauge: The best one of `group`, None where no lock is needed.
        group: The smallest group that explains it, None where the identity does.
        before: Squared distance.
        after: Squared distance under `gauge`, or, without one, under the best gauge of the largest group.
    """

    gauge: Gauge | None
    group: str | None
    before: float
    after: float


class Explainer:
    """Explains sites; remembers what each group leaves of noise, which depends on shapes alone."""

    def __init__(self) -> None:
        self._left_of_noise: dict[tuple[Any, ...], float] = {}

    def explain(self, site: Site, moving: Stacks, target: Stacks, *, precision: float = 0.0) -> Explained:
        """Looks for the smallest legal group that brings `moving` to `target`.

        One fit where nothing is found, and the smaller groups only where something is.

        Args:
            site: Says what is legal.
            moving: Of the model.
            target: Of the base, or of another model.
            precision: Machine epsilon of what is stored: distances below it are rounding.

        Raises:
            BadInput: If a stack holds NaN or infinity.
        """
        floor = max(_FLOOR, precision) ** 2 * square(target)
        before = moving.distance(target)
        largest = widest(site)
        gauge, after = _fit(largest, moving, target)
        # The quick look first: the correction only ever makes a fit less convincing.
        if before <= max(HALVED * after, floor) or before <= HALVED * self._corrected(largest, site, after, target):
            return Explained(None, None, before, min(after, before))
        found = {largest.name: (gauge, after)}
        for name in NAMES:
            if name in site.legal and name not in found:
                found[name] = _fit(_at(name, site), moving, target)
        costs = {
            name: max(self._corrected(_at(name, site), site, cost, target), floor) for name, (_, cost) in found.items()
        }
        best = min(costs.values())
        group = next(name for name in NAMES if name in costs and costs[name] <= HALVED * best)
        gauge, after = found[group]
        return Explained(gauge, group, before, after)

    def _corrected(self, group: Group, site: Site, cost: float, target: Stacks) -> float:
        shapes = tuple(tuple(x.shape) for x in _tensors(target))
        key = (group, site.planes, shapes)
        if key not in self._left_of_noise:
            scale = _NOISE * (square(target) / sum(x.numel() for x in _tensors(target))) ** 0.5
            draws = np.random.default_rng(0)

            def noisy(x: Tensor) -> Tensor:
                return x + scale * torch.from_numpy(np.asarray(draws.standard_normal(tuple(x.shape)))).to(x)

            moving = Stacks(*(noisy(x) for x in _tensors(target)))
            noise = moving.distance(target)
            self._left_of_noise[key] = min(1.0, _fit(group, moving, target)[1] / noise) if noise else 1.0
        share = self._left_of_noise[key]
        return cost / share if share else float("inf")


def square(stacks: Stacks) -> float:
    """The squared norm of both stacks, and of what is carried."""
    return float(sum(x.square().sum() for x in _tensors(stacks)))


def _tensors(stacks: Stacks) -> list[Tensor]:
    values = (getattr(stacks, field.name) for field in fields(stacks))
    return [value for value in values if isinstance(value, Tensor)]


def _fit(group: Group, moving: Stacks, target: Stacks) -> tuple[Gauge, float]:
    gauge = group.fit(moving, target)
    return gauge, moving.moved(gauge).distance(target)


def _at(name: str, site: Site) -> Group:
    group = GROUPS[name]()
    if site.planes is not None and "layout" in {field.name for field in fields(group)}:  # type: ignore[arg-type]
        return replace(group, layout=site.planes)  # type: ignore[type-var]
    return group
