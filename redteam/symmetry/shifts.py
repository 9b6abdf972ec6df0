"""Additive freedoms: what can be added to a checkpoint's weights and biases without changing its function.

    read      W ← W + c (1/γ)ᵀ, b ← b − c Σ β/γ   for a projection that reads a LayerNorm with gain γ, shift β
    write     W ← W + 1 uᵀ, b ← b + α 1           for a projection into a stream that only LayerNorms read
    key bias  b ← b + c                           softmax ignores it
    exchange  bv ← bv + e, bo ← bo − Σ_h Wo[:, h] e

A defender can hide behind them, since a fit of gauges sees them as distance. `canonical` takes them away before a
fit, by what commutes with any gauge; `restore` afterwards moves the checkpoint, along them, to the anchor.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, replace
from typing import Any, Literal, Protocol

import torch
from torch import Tensor

from redteam.anatomy import KINDS, Affine, AnyLinear, Draft, Site, anatomy_of
from redteam.checkpoint import Checkpoint
from redteam.symmetry.canonicals import null_direction
from redteam.symmetry.gauges import Gauge

Where = Literal["left", "right", "gate"]


@dataclass(frozen=True, eq=False)
class SiteMaps:
    """The maps of a site in float64, with the null directions that their norms leave them.

    Attributes:
        left, right: The maps.
        null_left, null_right: `(1/γ, −Σ β/γ)`, [in + 1]; zero where there is none.
        carried: The maps that take a gauge's permutation alone.
        null_gate: As `null_left`, of the first of what is carried.
    """

    left: Affine
    right: Affine
    null_left: Tensor
    null_right: Tensor
    carried: tuple[Affine, ...] = ()
    null_gate: Tensor | None = None

    @classmethod
    def read(cls, site: Site, checkpoint: Mapping[str, Tensor]) -> SiteMaps:
        """The parts of a site as they are in a checkpoint."""
        left, right = site.read(checkpoint)
        nulls = _null(site.left.linear, left, checkpoint), _null(site.pair[1].linear, right, checkpoint)
        carried = tuple(side.linear.read(checkpoint) for side in site.carried)
        gate = _null(site.carried[0].linear, carried[0], checkpoint) if carried else None
        return cls(left, right, *nulls, carried, gate)

    def moved(self, site: Site, gauge: Gauge) -> SiteMaps:
        """The parts under a gauge; raises IllegalGauge if it would change the function."""
        left, right, *carried = site.moved((self.left, self.right, *self.carried), gauge)
        return replace(self, left=left, right=right, carried=tuple(carried))

    def of(self, where: Where) -> Affine:
        """One of the maps."""
        return self.carried[0] if where == "gate" else self.left if where == "left" else self.right

    def null(self, where: Where) -> Tensor:
        """Its null direction."""
        found = {"left": self.null_left, "right": self.null_right, "gate": self.null_gate}[where]
        assert found is not None, "asked for only where there is one"
        return found

    def having(self, where: Where, affine: Affine) -> SiteMaps:
        """The same with another map in one place."""
        if where == "gate":
            return replace(self, carried=(affine, *self.carried[1:]))
        return replace(self, left=affine) if where == "left" else replace(self, right=affine)


class Shift(Protocol):
    """One additive freedom of a site."""

    def unit(self, parts: SiteMaps) -> Tensor:
        """The amount that moves a unit's weights or bias by the deviation of its weights, which no amount changes."""

    def toward(self, parts: SiteMaps, anchor: SiteMaps) -> Tensor:
        """The amount that brings `parts` closest to `anchor`."""

    def move(self, parts: SiteMaps, amount: Tensor) -> SiteMaps:
        """`parts` shifted; the function stays, whatever the amount."""


@dataclass(frozen=True)
class ReadShift:
    """`W ← W + c (1/γ)ᵀ, b ← b − c Σ β/γ` in one place; the amount is c, [out]."""

    side: Where
    linear: AnyLinear

    def unit(self, parts: SiteMaps) -> Tensor:
        weight, null = parts.of(self.side).weight, parts.null(self.side)[:-1]
        size = null.square().mean().sqrt()
        if not size > 0:
            return torch.zeros_like(weight[:, 0])
        across = weight - (weight @ null)[:, None] * null / null.square().sum()
        spread: Tensor = across.square().mean(1).sqrt()
        return spread / size

    def toward(self, parts: SiteMaps, anchor: SiteMaps) -> Tensor:
        here, there, null = parts.of(self.side), anchor.of(self.side), parts.null(self.side)
        gap = (there.weight - here.weight) @ null[:-1]
        square = null[:-1].square().sum()
        if here.bias is not None and there.bias is not None:
            seen = self.linear.bound(here.bias)
            gap = gap + seen * (there.bias - here.bias) * null[-1]
            square = square + seen * null[-1].square()
        return torch.where(square > 0, gap / square, 0.0)

    def move(self, parts: SiteMaps, amount: Tensor) -> SiteMaps:
        here, null = parts.of(self.side), parts.null(self.side)
        bias = None if here.bias is None else here.bias + amount * null[-1]
        return parts.having(self.side, Affine(here.weight + amount[:, None] * null[None, :-1], bias))


@dataclass(frozen=True)
class KeyBiasShift:
    """`bk ← bk + c` in the dimensions that no rotary embedding turns; the amount is c, [out], zero in the others."""

    linear: AnyLinear

    def unit(self, parts: SiteMaps) -> Tensor:
        return parts.right.weight.std(1) * self._free(parts)

    def toward(self, parts: SiteMaps, anchor: SiteMaps) -> Tensor:
        return (_bias(anchor.right) - _bias(parts.right)) * self._free(parts)

    def move(self, parts: SiteMaps, amount: Tensor) -> SiteMaps:
        shifted = _bias(parts.right) + amount * self._free(parts)
        return parts.having("right", Affine(parts.right.weight, shifted))

    def _free(self, parts: SiteMaps) -> Tensor:
        return 1 - self.linear.bound(_bias(parts.right))


@dataclass(frozen=True)
class ExchangeShift:
    """`bv ← bv + e, bo ← bo − Σ_h Wo[:, h] e`; the amount is e, [heads · width].

    Each group's e reaches the output through the `share` query heads of the group.
    """

    heads: int
    share: int

    def unit(self, parts: SiteMaps) -> Tensor:
        return parts.left.weight.std(1)

    def toward(self, parts: SiteMaps, anchor: SiteMaps) -> Tensor:
        return _bias(anchor.left) - _bias(parts.left)

    def move(self, parts: SiteMaps, amount: Tensor) -> SiteMaps:
        spread = amount.reshape(self.heads, 1, -1).expand(-1, self.share, -1).reshape(-1)
        taken = _bias(parts.right) - parts.right.weight @ spread
        moved = parts.having("left", Affine(parts.left.weight, _bias(parts.left) + amount))
        return moved.having("right", Affine(parts.right.weight, taken))


@dataclass(frozen=True)
class WriteShift:
    """`W ← W + 1 uᵀ, b ← b + α 1` on the right; the amount is (u, α), [in + 1], [in] where there is no bias."""

    def unit(self, parts: SiteMaps) -> Tensor:
        spread = parts.right.weight.std(0)
        return spread if parts.right.bias is None else torch.cat([spread, spread.square().mean().sqrt()[None]])

    def toward(self, parts: SiteMaps, anchor: SiteMaps) -> Tensor:
        return self._means(anchor) - self._means(parts)

    def move(self, parts: SiteMaps, amount: Tensor) -> SiteMaps:
        here, inputs = parts.right, parts.right.weight.shape[1]
        bias = None if here.bias is None else here.bias + amount[inputs]
        return parts.having("right", Affine(here.weight + amount[None, :inputs], bias))

    def _means(self, parts: SiteMaps) -> Tensor:
        means = parts.right.weight.mean(0)
        return means if parts.right.bias is None else torch.cat([means, parts.right.bias.mean()[None]])


def shifts_of(site: Site) -> tuple[Shift, ...]:
    """The additive freedoms of a site, in an order in which none undoes an earlier one's approach to an anchor.

    They belong to pairs of maps; where heads or norms are the site, the same maps' freedoms are found at those pairs.
    """
    if not site.paired:
        return ()
    left, right = (side.linear for side in site.pair)
    found: list[Shift] = []
    if left.reads_centred:
        found.append(ReadShift("left", left))
    if right.reads_centred:
        found.append(ReadShift("right", right))
    if site.carried and site.carried[0].linear.reads_centred:
        found.append(ReadShift("gate", site.carried[0].linear))
    if right.bias is not None and (right.bias_free or right.bias_bound is not None):
        found.append(KeyBiasShift(right))
    if left.bias_free and left.bias is not None:
        found.append(ExchangeShift(site.heads, site.pair[1].share))
    if right.writes_centred:
        found.append(WriteShift())
    return tuple(found)


@dataclass(frozen=True)
class SiteRewrite:
    """A site with all tensors of its two maps, the biases that a gauge leaves alone included (a `Rewrite`).

    Attributes:
        site: The site.
        change: How its parts are to be changed, given what the transform's function returned.
    """

    site: Site
    change: Callable[[Site, SiteMaps, Any], SiteMaps]

    @property
    def names(self) -> tuple[str, ...]:
        """The tensors of the maps, each once."""
        linears = [side.linear for side in (*self.site.pair, *self.site.carried)]
        return tuple(dict.fromkeys(name for linear in linears for name in linear.names))

    def apply(self, checkpoint: Mapping[str, Tensor], amount: Any) -> dict[str, Tensor]:
        """Those tensors, changed, in their own dtype: rounded once."""
        draft = Draft.of(checkpoint)
        for site, own in self.site.parts(amount):
            maps = self.change(site, SiteMaps.read(site, checkpoint), own)
            site.write(draft, maps.left, maps.right, maps.carried)
        return draft.tensors


def restore(checkpoint: Checkpoint, anchor: Checkpoint, kinds: Iterable[str] = KINDS) -> Checkpoint:
    """Moves a checkpoint along its additive freedoms to where the anchor is; lazy, and the function stays.

    Args:
        checkpoint: What a fit gave back.
        anchor: Whose null parts, key biases and value biases to take.
        kinds: Kinds of the sites to restore.

    Raises:
        BadInput: If the architecture is not known, or, when a tensor is read, if one holds NaN or infinity.
    """

    def change(site: Site, parts: SiteMaps, amount: None) -> SiteMaps:
        return toward(site, parts, SiteMaps.read(site, anchor))

    return each_kind(checkpoint, kinds, change)


def remove_shifts(checkpoint: Checkpoint, kinds: Iterable[str] = KINDS) -> Checkpoint:
    """Moves a checkpoint along its additive freedoms to the point closest to zero; lazy, and the function stays.

    Checkpoints that differ by such shifts alone come out the same.

    Args:
        checkpoint: Perhaps shifted.
        kinds: Kinds of the sites to settle.

    Raises:
        BadInput: As `restore`.
    """

    def change(site: Site, parts: SiteMaps, amount: None) -> SiteMaps:
        return settled(site, parts)

    return each_kind(checkpoint, kinds, change)


def settled(site: Site, parts: SiteMaps) -> SiteMaps:
    """`parts` moved as close to zero as the additive freedoms of the site allow."""
    left, right, *carried = (
        Affine(torch.zeros_like(x.weight), None if x.bias is None else torch.zeros_like(x.bias))
        for x in (parts.left, parts.right, *parts.carried)
    )
    return toward(site, parts, replace(parts, left=left, right=right, carried=tuple(carried)))


def toward(site: Site, parts: SiteMaps, anchor: SiteMaps) -> SiteMaps:
    """`parts` moved to `anchor` along every additive freedom of the site."""
    for shift in shifts_of(site):
        parts = shift.move(parts, shift.toward(parts, anchor))
    return parts


def each_kind(
    checkpoint: Checkpoint, kinds: Iterable[str], change: Callable[[Site, SiteMaps, None], SiteMaps]
) -> Checkpoint:
    """Rewrites whole sites, one kind after the other since two kinds can lie in one fused tensor."""
    anatomy = anatomy_of(checkpoint)
    for kind in dict.fromkeys(kinds):
        sites = [site for site in anatomy.sites((kind,)) if shifts_of(site)]
        checkpoint = checkpoint.transform([SiteRewrite(site, change) for site in sites], _nothing)
    return checkpoint


def _nothing(place: SiteRewrite) -> None:
    return None


def _null(linear: AnyLinear, affine: Affine, checkpoint: Mapping[str, Tensor]) -> Tensor:
    null = null_direction(linear, checkpoint)
    return affine.weight.new_zeros(affine.weight.shape[1] + 1) if null is None else null


def _bias(affine: Affine) -> Tensor:
    assert affine.bias is not None, "asked for only where there is one"
    return affine.bias
