"""How much of what only norms read was multiplied: what a site of the kind `norm-scale` is compared by.

The factor is told by what has no other gauge: embeddings, gains, heads of queries and keys. An output that is written
straight into a norm is mixed by the gauges of its heads or neurons, so that its product with the map before it, which
those leave as it is, stands for it.
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

from redteam.anatomy import Affine, Side, Site, Stacks, anatomy_of
from redteam.checkpoint import Checkpoint
from redteam.symmetry.canonicals import without_freedom
from redteam.symmetry.screening import sampled

_COLUMNS = 1024  # of a map, evenly spread: enough for one factor
_OUTLIER = 3  # deviations from the median
_EXACT = 1e-12
_OUTPUTS = 128  # of a product
_TRAINED = 0.1  # training moves a factor by less,
_SPREADS = 2  # or by less than so many deviations of its rows (1.4, at a deviation of 0.36, with growth=8)
_DEVIATIONS = 6  # standard errors

Rows = tuple[Tensor, Tensor]
"""Rows of one map, [heads, rows, columns] in float64, of a checkpoint and of its anchor; a head has one factor."""


class Scales:
    """What tells the factors of a checkpoint's sites of the kind `norm-scale`."""

    def __init__(self, protected: Checkpoint, anchor: Checkpoint) -> None:
        self.protected, self.anchor = protected, anchor
        pairs = anatomy_of(protected).sites(("vo", "mlp"))
        self._pairs: Mapping[str, Site] = {site.pair[1].linear.weight: site for site in pairs}
        self._factors: dict[str, tuple[Tensor, Tensor, int]] = {}

    def stacks(self, site: Site) -> tuple[Stacks, Stacks]:
        """All that tells the factors, [heads, 1, …], each row with the sign of the anchor's.

        Without a factor that training may have left.

        Raises:
            BadInput: If a tensor holds NaN or infinity.
        """
        rows = self._rows(site)
        found = [(_signed(here, there).flatten(1), there.flatten(1)) for here, there in rows]
        here, there = (torch.cat(maps, dim=1)[:, None] for maps in zip(*found, strict=True))
        factors = _factors(rows)
        if not bool(is_locked(*factors).any()):
            here = here / factors[0][:, None, None]
        return Stacks(here, here[:, :, :0]), Stacks(there, there[:, :, :0])

    def factors(self, site: Site) -> tuple[Tensor, Tensor, int]:
        """By how much each head was multiplied, how far the factors of its rows lie apart, and how many rows there are.

        A row's factor is that of the regression on the anchor, which training, unlike a lock, adds to: the other way
        round the factor would come out too small. The head's is their mean without outliers, so that rows which were
        trained most or tampered with have no hold on it. 1 where the anchor is zero.

        Returns:
            Factors and deviations, [heads] each, and the number; read once, since looks and fits both ask for them.

        Raises:
            BadInput: If a tensor holds NaN or infinity.
        """
        if site.label not in self._factors:
            self._factors[site.label] = _factors(self._rows(site))
        return self._factors[site.label]

    def reduced(self, site: Site) -> tuple[Stacks, Stacks]:
        """The factors beside ones: what a group fits to."""
        factors = self.factors(site)[0][:, None, None]
        return Stacks(factors, factors[:, :, :0]), Stacks(torch.ones_like(factors), factors[:, :, :0])

    def unscaled(self, site: Site) -> bool:
        """Whether no head was multiplied by more than training does, or than its rows can tell."""
        return not bool(is_locked(*self.factors(site)).any())

    def _rows(self, site: Site) -> list[Rows]:
        own = [side for side in site.lefts if not side.shared and self._in_common(side)]
        return [self._of(side, site) for side in own]

    def _in_common(self, side: Side) -> bool:
        names = side.linear.names
        return all(n in self.anchor and self.anchor.shape(n) == self.protected.shape(n) for n in names)

    def _of(self, side: Side, site: Site) -> Rows:
        before = self._pairs.get(side.linear.weight)
        if before is not None:
            return tuple(_product(before, x)[None] for x in (self.protected, self.anchor))  # type: ignore[return-value]
        return tuple(_rows(side, site, x) for x in (self.protected, self.anchor))  # type: ignore[return-value]


def _factors(rows: list[Rows]) -> tuple[Tensor, Tensor, int]:
    product = torch.cat([(_signed(here, there) * there).sum(-1) for here, there in rows], dim=1)
    square = torch.cat([there.square().sum(-1) for _, there in rows], dim=1)
    return *middle(product, square), product.shape[1]


def middle(product: Tensor, square: Tensor) -> tuple[Tensor, Tensor]:
    """The mean factor of each head's rows without outliers, and the rows' robust deviation from it, [heads] each.

    Args:
        product: [heads, rows], of the rows with the anchor's.
        square: [heads, rows], of the anchor's with themselves; a row of zeros tells nothing.
    """
    rows = torch.where(square > 0, product / square, torch.nan)
    median = rows.nanmedian(dim=1, keepdim=True).values
    spread = 1.4826 * (rows - median).abs().nanmedian(dim=1, keepdim=True).values
    near = (rows - median).abs() <= _OUTLIER * spread + _EXACT * median.abs()
    found = torch.where(near, product, 0.0).sum(1) / torch.where(near, square, 0.0).sum(1)
    usable = found.isfinite() & (found > 0)
    return torch.where(usable, found, 1.0), torch.where(usable, spread[:, 0], 0.0)


def is_locked(factor: Tensor, spread: Tensor, rows: int) -> Tensor:
    """Which factors are more than training makes of 1, up or down, and more than chance does; as `middle` gives them.

    Training that multiplies all rows also drives their factors apart; a lock multiplies them alike.

    Args:
        factor: Of each head.
        spread: Of the factors of its rows.
        rows: How many there are of them.
    """
    size = torch.maximum(factor, 1.0 / factor) - 1.0
    locked: Tensor = size > (max(_SPREADS, _DEVIATIONS / rows**0.5) * spread / factor).clamp(min=_TRAINED)
    return locked


def _rows(side: Side, site: Site, checkpoint: Checkpoint) -> Tensor:
    rows: Tensor = sampled(side, checkpoint, count=_COLUMNS).unflatten(0, (site.heads, -1))
    return rows


def _product(pair: Site, checkpoint: Checkpoint) -> Tensor:
    """Rows of `Σ_h Wo[h] Wv[h]` over heads, or of `down · up`: [outputs, inputs]; no gauge of the pair changes them."""
    left, right = (_without_freedom(side, checkpoint) for side in pair.pair)
    first, last = pair.left.stack(left, pair.heads), pair.pair[1].stack(right, pair.heads)
    last = last.unflatten(-1, (pair.pair[1].share, -1)).sum(2)
    last = last[:, :, :: max(1, last.shape[-1] // _OUTPUTS)]
    first = first.unflatten(-1, (pair.left.share, -1)).sum(2)
    product: Tensor = torch.einsum("gno,gni->oi", last, first)
    return product


def _without_freedom(side: Side, checkpoint: Checkpoint) -> Affine:
    return without_freedom(side.linear, side.linear.read(checkpoint), checkpoint)


def _signed(here: Tensor, there: Tensor) -> Tensor:
    """Rows turned to the anchor's side: planes of rotary embeddings may have any sign under a norm."""
    sign = (here * there).sum(-1, keepdim=True).sign()
    return here * torch.where(sign == 0, 1.0, sign)
