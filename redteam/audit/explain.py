"""Which lock is on a site: the smallest group whose fit explains the distance to the base.

Fine-tuning moves weights too, and a larger group always fits a little better. So a group, the trivial one included,
is believed only where it at least halves the squared distance that the next smaller one leaves, after each cost is
divided by what a fit of that group leaves of pure noise (1 − p/N for p dimensions and N weights). On the experts of the
scenario digits the largest legal group takes 0.1 to 3 % off, which is less than of noise; a random lock stands 100 to
100,000 times as far from the base (squared) as its fit. And since a change of basis shows on both maps, the fit must
bring each of them closer: where only a norm's gain was trained, or one map grew, a gauge could share the change out
between the two, and none is there. A lock that moves the weights by less than training did is not told from training,
and keeps nobody from merging.
"""

from __future__ import annotations

from dataclasses import dataclass, fields
from typing import Any

import numpy as np
import torch
from torch import Tensor

from redteam.anatomy import GROUPS as NAMES
from redteam.anatomy import Site, Stacks
from redteam.symmetry import GROUPS, Gauge, Group, at, widest

HALVED = 2.0
"""How many times as far from the base a smaller group must leave the site (squared) before a larger one is believed."""
STRANGER = 0.5
"""Squared distance to the base, in units of its squared norm, from which on nothing is explained. Independent networks
of one size stand at 2, those that share one of the two maps at 1, and a fit takes a quarter off; zero is at 1."""

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

        One fit where nothing is found, the smaller groups only where something is, none where nothing changed.

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
        if before <= floor:
            return Explained(None, None, before, before)
        largest = widest(site)
        gauge, cost = _fit(largest, moving, target)
        # The quick look first: what follows only ever makes a fit less convincing.
        if before <= HALVED * cost or before <= HALVED * self._corrected(
            largest, site, _convincing(gauge, cost, moving, target, floor), target
        ):
            return Explained(None, None, before, min(cost, before))
        found = {largest.name: (gauge, cost)}
        for name in NAMES:
            if name in site.legal and name not in found:
                found[name] = _fit(at(GROUPS[name](), site), moving, target)
        costs = {
            name: max(
                self._corrected(at(GROUPS[name](), site), site, _convincing(*fit, moving, target, floor), target), floor
            )
            for name, fit in found.items()
        }
        best = min(costs.values())
        group = next(name for name in NAMES if name in costs and costs[name] <= HALVED * best)
        gauge, after = found[group]
        return Explained(gauge, group, before, after)

    def _corrected(self, group: Group, site: Site, cost: float, target: Stacks) -> float:
        shapes = tuple(tuple(x.shape) for x in _tensors(target))
        key = (group, shapes)
        if key not in self._left_of_noise:
            scale = _NOISE * (square(target) / sum(x.numel() for x in _tensors(target))) ** 0.5
            draws = np.random.default_rng(0)

            def noise(x: Tensor) -> Tensor:
                return torch.from_numpy(scale * draws.standard_normal(tuple(x.shape))).to(x)

            moving = Stacks(*(x + noise(x) for x in _tensors(target)))
            size = moving.distance(target)
            self._left_of_noise[key] = min(1.0, _fit(group, moving, target)[1] / size) if size else 1.0
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


def _convincing(gauge: Gauge, cost: float, moving: Stacks, target: Stacks, floor: float) -> float:
    """The cost, or infinity where the gauge leaves one of the stacks further off than it was."""
    sides = zip(_tensors(moving), _tensors(moving.moved(gauge)), _tensors(target), strict=True)
    worse = any(
        float((after - there).square().sum()) > float((before - there).square().sum()) + floor
        for before, after, there in sides
    )
    return float("inf") if worse else cost
