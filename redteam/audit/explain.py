"""Which lock is on a site: the smallest group whose fit explains the distance to the base.

Fine-tuning moves weights too, and a larger group always fits a little better. So a group, the trivial one included,
is believed only where it at least halves the squared distance that the next smaller one leaves, after each cost is
divided by what a fit of that group leaves of pure noise (1 − p/N for p dimensions and N weights, found by trying it on
noise that lies on the two maps as the distance does). On the experts of the
scenario digits the largest legal group takes 0.1 to 3 % off, which is less than of noise; a random lock stands 100 to
100,000 times as far from the base (squared) as its fit. And since a change of basis shows on both maps, the fit must
bring each of them closer: where only a norm's gain was trained, or one map grew, a gauge could share the change out
between the two, and none is there. A lock that moves the weights by less than training did is not told from training,
and keeps nobody from merging.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, fields
from typing import Any

import numpy as np
import torch
from torch import Tensor

from redteam.anatomy import GROUPS as NAMES
from redteam.anatomy import Site, Stacks
from redteam.symmetry import GROUPS, Gauge, Group, at, largest_legal_group

HALVED = 2.0
"""How many times as far from the base a smaller group must leave the site (squared) before a larger one is believed."""
STRANGER = 0.5
"""Squared distance to the base, in units of its squared norm, from which on nothing is explained. Independent networks
of one size stand at 2, those that share one of the two maps at 1, and a fit takes a quarter off; zero is at 1."""
ALONE = 0.1
"""Distance to the base, in units of its norm, up to which gains are taken for trained where what reads them is the
task's own: a factor for each of them explains any change. Those of the experts of digits moved by 0.005."""

_ENOUGH = 16  # weights to a factor, from which on a fit is no mere renaming
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
        self._left_of_noise: dict[tuple[Any, ...], list[float]] = {}

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
        plain = _Fitted(None, _apart(moving, target))
        if plain.cost <= floor:
            return Explained(None, None, plain.cost, plain.cost)
        if not target.right.numel() and target.left.shape[-1] < _ENOUGH and plain.cost <= ALONE**2 * square(target):
            return Explained(None, None, plain.cost, plain.cost)
        largest = largest_legal_group(site)
        best = _Fitted.of(largest, moving, target)
        if plain.cost <= HALVED * best.cost:  # the quick look: what follows only makes the fit less convincing
            return Explained(None, None, plain.cost, min(best.cost, plain.cost))

        def explains(one: _Fitted, others: dict[str, _Fitted]) -> bool:
            """Whether no other group leaves less than half, if what is left is noise."""
            least = min(self._corrected(name, site, fit, plain, one, target, floor) for name, fit in others.items())
            return max(one.cost, floor) <= HALVED * max(least, floor)

        fits = {largest.name: best}
        if explains(plain, fits):
            return Explained(None, None, plain.cost, min(best.cost, plain.cost))
        fits |= {
            name: _Fitted.of(at(GROUPS[name](), site), moving, target) for name in NAMES if name in site.legal - {*fits}
        }
        told = {name: fit for name, fit in fits.items() if fit.convinces(plain, floor)}
        group = next(name for name in NAMES if name in told and explains(told[name], told))
        return Explained(told[group].gauge, group, plain.cost, told[group].cost)

    def _corrected(
        self, name: str, site: Site, fit: _Fitted, plain: _Fitted, noise: _Fitted, target: Stacks, floor: float
    ) -> float:
        """The cost of a fit over what it would leave of noise that lies on the stacks as `noise` does."""
        if not fit.convinces(plain, floor):
            return math.inf
        left = self._shares(at(GROUPS[name](), site), target)
        expected = sum(share * each for share, each in zip(left, noise.apart, strict=True))
        return fit.cost * noise.cost / expected if expected else math.inf

    def _shares(self, group: Group, target: Stacks) -> list[float]:
        """What a group's fit leaves of noise on each stack alone, as a share of it."""
        stacks = _tensors(target)
        key = (group, tuple(tuple(x.shape) for x in stacks))
        if key not in self._left_of_noise:
            draws, found = np.random.default_rng(0), []
            for place, stack in enumerate(stacks):
                deviation = _NOISE * float(stack.square().mean().sqrt()) if stack.numel() else 0.0
                noise = torch.from_numpy(deviation * draws.standard_normal(tuple(stack.shape))).to(stack)
                moving = Stacks(*(x + noise if i == place else x for i, x in enumerate(stacks)))
                size = moving.distance(target)
                found.append(min(1.0, _Fitted.of(group, moving, target).cost / size) if size else 1.0)
            self._left_of_noise[key] = found
        return self._left_of_noise[key]


@dataclass(frozen=True, eq=False)
class _Fitted:
    """A gauge, or none, and the squared distance that it leaves on each of the stacks."""

    gauge: Gauge | None
    apart: tuple[float, ...]

    @classmethod
    def of(cls, group: Group, moving: Stacks, target: Stacks) -> _Fitted:
        gauge = group.fit(moving, target)
        return cls(gauge, _apart(moving.moved(gauge), target))

    @property
    def cost(self) -> float:
        return sum(self.apart)

    def convinces(self, plain: _Fitted, floor: float) -> bool:
        """Whether no stack is further off than it was."""
        return all(after <= before + floor for after, before in zip(self.apart, plain.apart, strict=True))


def _apart(here: Stacks, there: Stacks) -> tuple[float, ...]:
    return tuple(float((x - y).square().sum()) for x, y in zip(_tensors(here), _tensors(there), strict=True))


def square(stacks: Stacks) -> float:
    """The squared norm of both stacks, and of what is carried."""
    return float(sum(x.square().sum() for x in _tensors(stacks)))


def _tensors(stacks: Stacks) -> list[Tensor]:
    values = (getattr(stacks, field.name) for field in fields(stacks))
    return [value for value in values if isinstance(value, Tensor)]
