"""Rotary planes exchanged where their frequencies lie close: a move that keeps the function nearly, and its fit."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import ClassVar

import numpy as np
import torch
from torch import Tensor

from redteam.anatomy import Layout, Site, Stacks, anatomy_of, subgroups
from redteam.checkpoint import Checkpoint
from redteam.checkpoint.vocabulary import in_common
from redteam.errors import BadSetting
from redteam.symmetry.alignment import Comparison
from redteam.symmetry.fitting import apart, fit_gauges, moved, require_same
from redteam.symmetry.gauges import MonomialGauge, planes_of
from redteam.symmetry.solvers import assign, require_finite

_THETA = 10_000.0  # transformers' own, where a config is silent
_STAYS = 1e-9  # of correlation, in favour of a plane's own place: what nothing tells apart is left alone


@dataclass(frozen=True)
class PlaneExchange:
    """The planes of a head in another order, none further from its place than a window.

    Queries and keys follow alike, so that without a rotary embedding nothing would change; with it, a plane is turned
    at another plane's frequency, and the function stays as far as the two are equal. So this is no group of `GROUPS`,
    whose elements are legal where they keep the function.

    Attributes:
        frequencies: Of the planes, the fastest first.
        window: The most neighbours that are exchanged with one another.
        sharpness: γ of AloePri's Algorithm 2: windows from a plane on have 1 to `window` planes, w of them with a
            probability that goes as exp(γ (frequency w further on − its own)).
        layout: Which rows make a plane.

    Raises:
        BadSetting: If the window is empty.
    """

    frequencies: tuple[float, ...]
    window: int = 8
    sharpness: float = 1000.0
    layout: Layout = "half"
    name: ClassVar[str] = "plane-exchange"

    def __post_init__(self) -> None:
        if self.window < 1:
            raise BadSetting(f"The window is {self.window} planes; expected at least 1, which exchanges none.")

    def sample(self, batch: int, width: int, generator: np.random.Generator) -> MonomialGauge:
        """Windows one after the other, and in each a uniform permutation; dimensions that are not turned stay."""
        orders = torch.stack([torch.from_numpy(self._order(generator)) for _ in range(batch)])
        return MonomialGauge(self._rows(orders, width))

    def fit(self, moving: Stacks, target: Stacks) -> MonomialGauge:
        """Linear assignment on `|⟨u, u0⟩| / (‖u‖ ‖u0‖)`, summed over both sides, u a plane's complex row.

        No angle and no scale of a plane has a bearing on that.

        Raises:
            BadInput: If a stack holds NaN or infinity.
        """
        count = len(self.frequencies)

        def alike(stack: Tensor, stack0: Tensor) -> Tensor:
            return _correlation(*(planes_of(x[:, : 2 * count], self.layout) for x in (stack, stack0)))

        profit = alike(moving.left, target.left) + alike(moving.right, target.right)
        place = torch.arange(count, device=profit.device)
        apart_by = (place[:, None] - place).abs()
        profit = profit + _STAYS * (apart_by == 0)
        order = assign(torch.where(apart_by >= self.window, -4.0 * count, profit))
        return MonomialGauge(self._rows(order, moving.left.shape[1]))

    def _order(self, generator: np.random.Generator) -> np.ndarray:
        frequency, start, order = np.asarray(self.frequencies), 0, []
        while start < len(frequency):
            most = min(self.window, len(frequency) - start)
            behind = self.sharpness * (frequency[start : start + most] - frequency[start])
            chance = np.exp(behind - behind.max())
            size = 1 + int(generator.choice(most, p=chance / chance.sum()))
            order.append(start + generator.permutation(size))
            start += size
        return np.concatenate(order)

    def _rows(self, orders: Tensor, width: int) -> Tensor:
        """Orders of planes [B, n/2] as orders of the rows of a head, [B, width]."""
        count = len(self.frequencies)
        if self.layout == "half":
            rows = torch.cat([orders, orders + count], dim=1)
        else:
            rows = torch.stack([2 * orders, 2 * orders + 1], dim=2).flatten(1)
        rest = torch.arange(2 * count, width, device=orders.device).expand(len(orders), -1)
        return torch.cat([rows, rest], dim=1)


@dataclass(frozen=True)
class ExchangeLock:
    """Planes exchanged at every layer whose queries and keys are turned; approximate.

    Attributes:
        window: As in `PlaneExchange`.
        generators: The random stream of a site, by its label; the same one when asked again.
    """

    window: int
    generators: Callable[[str], np.random.Generator]

    def put_on(self, checkpoint: Checkpoint) -> Checkpoint:
        """Planes in another order; lazy."""
        return self._moved(checkpoint, lambda gauge: gauge)

    def take_off(self, checkpoint: Checkpoint) -> Checkpoint:
        """Planes in their order again; lazy."""
        return self._moved(checkpoint, MonomialGauge.inverse)

    def _moved(self, checkpoint: Checkpoint, turn: Callable[[MonomialGauge], MonomialGauge]) -> Checkpoint:
        places = exchangeable(checkpoint, self.window)

        def gauge(site: Site) -> MonomialGauge:
            return turn(places[site].sample(site.heads, site.width, self.generators(site.label)))

        for sites in apart(places):
            checkpoint = moved(checkpoint, sites, gauge)
        return checkpoint


def fit_planes(protected: Checkpoint, anchor: Checkpoint, window: int) -> Checkpoint:
    """Every layer's planes in the order of the anchor's, then the tied fit of queries and keys; lazy.

    Args:
        protected: Its heads in the anchor's order; returned as it is where no planes can be exchanged.
        anchor: The public base, or another relative.
        window: As in `PlaneExchange`.

    Raises:
        BadInput: As `fit_gauges`.
    """
    places = exchangeable(protected, window)
    if not places:
        return protected
    require_same(places, *in_common(protected, anchor))
    compare = Comparison(*in_common(protected, anchor))
    found = protected
    for sites in apart(places):
        found = moved(found, sites, lambda site: places[site].fit(*compare(site)))
    return fit_gauges(found, anchor, ("qk",), None)


def exchangeable(checkpoint: Checkpoint, window: int) -> dict[Site, PlaneExchange]:
    """The sites of queries and keys that are turned and not normed, and what can be exchanged there.

    Each is open to permutations, which it allows nearly. Under a norm of queries and keys a gain of each dimension
    would have to follow, for all heads alike.
    """
    found = {}
    for site in anatomy_of(checkpoint).sites(("qk",)):
        if site.planes is None or site.legal.isdisjoint(("planar", "partial-planar")):
            continue
        turned = site.width if site.turned is None else site.turned
        open_to_orders = replace(site, legal=site.legal | subgroups("permutation"), planes=None, turned=None)
        found[open_to_orders] = PlaneExchange(_frequencies(checkpoint, turned), window, layout=site.planes)
    return found


def _frequencies(checkpoint: Checkpoint, turned: int) -> tuple[float, ...]:
    """θ^(−2i / n), before any scaling for longer texts, which keeps what lies close close."""
    nested = checkpoint.config.get("rope_parameters")
    told = [nested.get("rope_theta") if isinstance(nested, Mapping) else None, checkpoint.config.get("rope_theta")]
    theta = next((float(x) for x in told if isinstance(x, int | float) and x > 0), _THETA)
    return tuple(theta ** (-2 * plane / turned) for plane in range(turned // 2))


def _correlation(moving: Tensor, target: Tensor) -> Tensor:
    """`|⟨u, u0⟩| / (‖u‖ ‖u0‖)`, [B, planes, planes], target × moving; 0 where a plane is."""
    units = []
    for planes in (moving, target):
        require_finite(planes)
        units.append(planes / torch.linalg.vector_norm(planes, dim=-1, keepdim=True).clamp(min=1e-300))
    correlation: Tensor = (units[1] @ units[0].mH).abs()
    return correlation
