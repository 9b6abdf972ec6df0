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
from dataclasses import dataclass
from typing import Any, Literal, Protocol

import torch
from torch import Tensor

from redteam.anatomy import KINDS, Affine, Linear, Site, anatomy_of
from redteam.checkpoint import Checkpoint
from redteam.symmetry.canonicals import null_direction


@dataclass(frozen=True, eq=False)
class Parts:
    """The maps of a site in float64, with the null directions that their norms leave them.

    Attributes:
        left, right: The maps.
        null_left, null_right: `(1/γ, −Σ β/γ)`, [in + 1]; zero where there is none.
    """

    left: Affine
    right: Affine
    null_left: Tensor
    null_right: Tensor

    @classmethod
    def read(cls, site: Site, checkpoint: Mapping[str, Tensor]) -> Parts:
        """The parts of a site as they are in a checkpoint."""
        left, right = site.read(checkpoint)
        return cls(left, right, _null(site.left.linear, left, checkpoint), _null(site.right.linear, right, checkpoint))

    def with_side(self, side: Literal["left", "right"], affine: Affine) -> Parts:
        """The same with another map on one side."""
        left, right = (affine, self.right) if side == "left" else (self.left, affine)
        return Parts(left, right, self.null_left, self.null_right)


class Shift(Protocol):
    """One additive freedom of a site."""

    def unit(self, parts: Parts) -> Tensor:
        """The amount that moves a unit's weights or bias by the deviation of its weights, which no amount changes."""

    def toward(self, parts: Parts, anchor: Parts) -> Tensor:
        """The amount that brings `parts` closest to `anchor`."""

    def move(self, parts: Parts, amount: Tensor) -> Parts:
        """`parts` shifted; the function stays, whatever the amount."""


@dataclass(frozen=True)
class ReadShift:
    """`W ← W + c (1/γ)ᵀ, b ← b − c Σ β/γ` on one side; the amount is c, [out]."""

    side: Literal["left", "right"]
    bias_free: bool

    def unit(self, parts: Parts) -> Tensor:
        weight, null = getattr(parts, self.side).weight, self._null(parts)[:-1]
        size = null.square().mean().sqrt()
        if not size > 0:
            return torch.zeros_like(weight[:, 0])
        across = weight - (weight @ null)[:, None] * null / null.square().sum()
        spread: Tensor = across.square().mean(1).sqrt()
        return spread / size

    def toward(self, parts: Parts, anchor: Parts) -> Tensor:
        here, there, null = getattr(parts, self.side), getattr(anchor, self.side), self._null(parts)
        gap = (there.weight - here.weight) @ null[:-1]
        square = null[:-1].square().sum()
        if here.bias is not None and not self.bias_free:
            gap = gap + (there.bias - here.bias) * null[-1]
            square = square + null[-1].square()
        return gap / square if square > 0 else torch.zeros_like(gap)

    def move(self, parts: Parts, amount: Tensor) -> Parts:
        here, null = getattr(parts, self.side), self._null(parts)
        bias = None if here.bias is None else here.bias + amount * null[-1]
        return parts.with_side(self.side, Affine(here.weight + amount[:, None] * null[None, :-1], bias))

    def _null(self, parts: Parts) -> Tensor:
        return parts.null_left if self.side == "left" else parts.null_right


@dataclass(frozen=True)
class KeyBiasShift:
    """`bk ← bk + c`; the amount is c, [out]."""

    def unit(self, parts: Parts) -> Tensor:
        return parts.right.weight.std(1)

    def toward(self, parts: Parts, anchor: Parts) -> Tensor:
        return _bias(anchor.right) - _bias(parts.right)

    def move(self, parts: Parts, amount: Tensor) -> Parts:
        return parts.with_side("right", Affine(parts.right.weight, _bias(parts.right) + amount))


@dataclass(frozen=True)
class ExchangeShift:
    """`bv ← bv + e, bo ← bo − Σ_h Wo[:, h] e`; the amount is e, [heads · width].

    Each group's e reaches the output through the `share` query heads of the group.
    """

    heads: int
    share: int

    def unit(self, parts: Parts) -> Tensor:
        return parts.left.weight.std(1)

    def toward(self, parts: Parts, anchor: Parts) -> Tensor:
        return _bias(anchor.left) - _bias(parts.left)

    def move(self, parts: Parts, amount: Tensor) -> Parts:
        spread = amount.reshape(self.heads, 1, -1).expand(-1, self.share, -1).reshape(-1)
        taken = _bias(parts.right) - parts.right.weight @ spread
        moved = parts.with_side("left", Affine(parts.left.weight, _bias(parts.left) + amount))
        return moved.with_side("right", Affine(parts.right.weight, taken))


@dataclass(frozen=True)
class WriteShift:
    """`W ← W + 1 uᵀ, b ← b + α 1` on the right; the amount is (u, α), [in + 1], [in] where there is no bias."""

    def unit(self, parts: Parts) -> Tensor:
        spread = parts.right.weight.std(0)
        return spread if parts.right.bias is None else torch.cat([spread, spread.square().mean().sqrt()[None]])

    def toward(self, parts: Parts, anchor: Parts) -> Tensor:
        return self._means(anchor) - self._means(parts)

    def move(self, parts: Parts, amount: Tensor) -> Parts:
        here, inputs = parts.right, parts.right.weight.shape[1]
        bias = None if here.bias is None else here.bias + amount[inputs]
        return parts.with_side("right", Affine(here.weight + amount[None, :inputs], bias))

    def _means(self, parts: Parts) -> Tensor:
        means = parts.right.weight.mean(0)
        return means if parts.right.bias is None else torch.cat([means, parts.right.bias.mean()[None]])


def shifts_of(site: Site) -> tuple[Shift, ...]:
    """The additive freedoms of a site, in an order in which none undoes an earlier one's approach to an anchor.

    They belong to pairs of maps; where heads or norms are the site, the same maps' freedoms are found at those pairs.
    """
    if not site.paired:
        return ()
    left, right = site.left.linear, site.right.linear
    found: list[Shift] = []
    if left.reads_centred:
        found.append(ReadShift("left", left.bias_free))
    if right.reads_centred:
        found.append(ReadShift("right", right.bias_free))
    if right.bias_free and right.bias is not None:
        found.append(KeyBiasShift())
    if left.bias_free and left.bias is not None:
        found.append(ExchangeShift(site.heads, site.right.share))
    if right.writes_centred:
        found.append(WriteShift())
    return tuple(found)


@dataclass(frozen=True)
class Whole:
    """A site with all tensors of its two maps, the biases that a gauge leaves alone included (a `Rewrite`).

    Attributes:
        site: The site.
        change: How its parts are to be changed, given what the transform's function returned.
    """

    site: Site
    change: Callable[[Site, Parts, Any], Parts]

    @property
    def names(self) -> tuple[str, ...]:
        """The tensors of both maps, each once."""
        return tuple(dict.fromkeys(self.site.left.linear.names + self.site.right.linear.names))

    def apply(self, checkpoint: Mapping[str, Tensor], amount: Any) -> dict[str, Tensor]:
        """Those tensors, changed, in their own dtype: rounded once."""
        parts = self.change(self.site, Parts.read(self.site, checkpoint), amount)
        return self.site.write(checkpoint, parts.left, parts.right)


def restore(checkpoint: Checkpoint, anchor: Checkpoint, kinds: Iterable[str] = KINDS) -> Checkpoint:
    """Moves a checkpoint along its additive freedoms to where the anchor is; lazy, and the function stays.

    Args:
        checkpoint: What a fit gave back.
        anchor: Whose null parts, key biases and value biases to take.
        kinds: Kinds of the sites to restore.

    Raises:
        BadInput: If the architecture is not known, or, when a tensor is read, if one holds NaN or infinity.
    """

    def change(site: Site, parts: Parts, amount: None) -> Parts:
        return toward(site, parts, Parts.read(site, anchor))

    return each_kind(checkpoint, kinds, change)


def settle(checkpoint: Checkpoint, kinds: Iterable[str] = KINDS) -> Checkpoint:
    """Moves a checkpoint along its additive freedoms to the point closest to zero; lazy, and the function stays.

    Checkpoints that differ by such shifts alone come out the same.

    Args:
        checkpoint: Perhaps shifted.
        kinds: Kinds of the sites to settle.

    Raises:
        BadInput: As `restore`.
    """

    def change(site: Site, parts: Parts, amount: None) -> Parts:
        return settled(site, parts)

    return each_kind(checkpoint, kinds, change)


def settled(site: Site, parts: Parts) -> Parts:
    """`parts` moved as close to zero as the additive freedoms of the site allow."""
    left, right = (
        Affine(torch.zeros_like(x.weight), None if x.bias is None else torch.zeros_like(x.bias))
        for x in (parts.left, parts.right)
    )
    return toward(site, parts, Parts(left, right, parts.null_left, parts.null_right))


def toward(site: Site, parts: Parts, anchor: Parts) -> Parts:
    """`parts` moved to `anchor` along every additive freedom of the site."""
    for shift in shifts_of(site):
        parts = shift.move(parts, shift.toward(parts, anchor))
    return parts


def each_kind(checkpoint: Checkpoint, kinds: Iterable[str], change: Callable[[Site, Parts, None], Parts]) -> Checkpoint:
    """Rewrites whole sites, one kind after the other since two kinds can lie in one fused tensor."""
    anatomy = anatomy_of(checkpoint)
    for kind in dict.fromkeys(kinds):
        checkpoint = checkpoint.transform([Whole(site, change) for site in anatomy.sites((kind,))], _nothing)
    return checkpoint


def _nothing(place: Whole) -> None:
    return None


def _null(linear: Linear, affine: Affine, checkpoint: Mapping[str, Tensor]) -> Tensor:
    null = null_direction(linear, checkpoint)
    return affine.weight.new_zeros(affine.weight.shape[1] + 1) if null is None else null


def _bias(affine: Affine) -> Tensor:
    assert affine.bias is not None, "asked for only where there is one"
    return affine.bias
