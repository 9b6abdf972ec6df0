"""Sites: the places of a network that have a symmetry, all of one form.

A site is a pair of stacks, `left` [B, n, a] and `right` [B, n, c], and the function stays the same under
`left ← G left, right ← G⁻ᵀ right`:

    qk   left = the r query heads of a key/value group side by side, a bias as one more column; right = the key head
    vo   left = the value head, with its bias; right = the r heads' columns of the output, transposed, side by side
    mlp  left = up, with its bias; right = down, transposed; one batch entry, n neurons
"""

from __future__ import annotations

from collections import ChainMap
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor

from redteam.anatomy.legality import Layout, listed
from redteam.anatomy.linear import Affine, Linear
from redteam.errors import IllegalGauge


class GaugeLike(Protocol):
    """What a site needs of a gauge (`redteam.symmetry.Dense`, `Permuted` and `Turned` are some)."""

    @property
    def group(self) -> str:
        """The smallest group it belongs to."""

    @property
    def groups(self) -> frozenset[str]:
        """All groups that it belongs to."""

    @property
    def layout(self) -> Layout | None:
        """Of its rotary planes; None if it knows none."""

    @property
    def batch(self) -> int:
        """For how many heads it is."""

    @property
    def width(self) -> int:
        """How many dimensions a head has."""

    def left(self, stack: Tensor, /) -> Tensor:
        """`G stack`."""

    def right(self, stack: Tensor, /) -> Tensor:
        """`G⁻ᵀ stack`."""


@dataclass(frozen=True, eq=False)
class Stacks:
    """The two stacks of a site.

    Attributes:
        left: float64 [B, n, a].
        right: float64 [B, n, c].
    """

    left: Tensor
    right: Tensor

    def moved(self, gauge: GaugeLike) -> Stacks:
        """`G left` and `G⁻ᵀ right`."""
        return Stacks(gauge.left(self.left), gauge.right(self.right))

    def distance(self, other: Stacks) -> float:
        """`‖left − left′‖² + ‖right − right′‖²`, over all heads."""
        return float((self.left - other.left).square().sum() + (self.right - other.right).square().sum())


@dataclass(frozen=True)
class Side:
    """One side of a site: a linear map, and how it is cut into heads.

    Attributes:
        linear: The map.
        share: How many heads share one G (r).
        columns: Whether G acts on the map's input (its columns, transposed, are stacked) rather than on its output.
    """

    linear: Linear
    share: int = 1
    columns: bool = False

    @property
    def names(self) -> tuple[str, ...]:
        """The tensors that a gauge rewrites: where it acts on the input, the bias stays."""
        return (self.linear.weight,) if self.columns else self.linear.names

    def stack(self, affine: Affine, heads: int) -> Tensor:
        """[B, n, r·k] from a map whose stacked dimension is B·r·n long; head h belongs to group h // r."""
        flat = affine.weight.T if self.columns else affine.weight
        if not self.columns and affine.bias is not None:
            flat = torch.cat([flat, affine.bias[:, None]], dim=1)
        cut = flat.reshape(heads, self.share, -1, flat.shape[1])
        return cut.transpose(1, 2).reshape(heads, cut.shape[2], -1)

    def unstack(self, stack: Tensor, affine: Affine) -> Affine:
        """The reverse of `stack`; `affine` gives what the stack doesn't hold."""
        cut = stack.reshape(*stack.shape[:2], self.share, -1).transpose(1, 2)
        flat = cut.reshape(-1, cut.shape[-1])
        if self.columns:
            return Affine(flat.T, affine.bias)
        return Affine(flat, None) if affine.bias is None else Affine(flat[:, :-1], flat[:, -1])


@dataclass(frozen=True)
class Site:
    """A place with a symmetry.

    Attributes:
        kind: `"qk"`, `"vo"` or `"mlp"`.
        layer: Counted from 0.
        heads: Batch size B of the stacks: key/value heads, 1 for an MLP.
        width: n, the dimensions of a head or the neurons of an MLP.
        left: The map that G multiplies.
        right: The map that G⁻ᵀ multiplies.
        legal: Names of the groups that keep the function here.
    """

    kind: str
    layer: int
    heads: int
    width: int
    left: Side
    right: Side
    legal: frozenset[str]

    @property
    def label(self) -> str:
        """For example `"qk/3"`."""
        return f"{self.kind}/{self.layer}"

    @property
    def names(self) -> tuple[str, ...]:
        """The tensors that a gauge rewrites, each once."""
        return tuple(dict.fromkeys(self.left.names + self.right.names))

    def read(self, checkpoint: Mapping[str, Tensor]) -> tuple[Affine, Affine]:
        """The two maps, in float64."""
        return self.left.linear.read(checkpoint), self.right.linear.read(checkpoint)

    def write(self, checkpoint: Mapping[str, Tensor], left: Affine, right: Affine) -> dict[str, Tensor]:
        """The tensors of both maps with these in their place, in their own dtype."""
        tensors = self.left.linear.write(checkpoint, left)
        return tensors | self.right.linear.write(ChainMap(tensors, checkpoint), right)  # type: ignore[arg-type]

    def stacks(self, checkpoint: Mapping[str, Tensor]) -> Stacks:
        """The stacks as they are in the checkpoint, float64.

        Raises:
            BadInput: If a tensor holds NaN or infinity.
        """
        return self.stacked(*self.read(checkpoint))

    def stacked(self, left: Affine, right: Affine) -> Stacks:
        """The stacks of two maps."""
        return Stacks(self.left.stack(left, self.heads), self.right.stack(right, self.heads))

    def moved(self, left: Affine, right: Affine, gauge: GaugeLike) -> tuple[Affine, Affine]:
        """The two maps under a gauge.

        Raises:
            IllegalGauge: If the gauge would change the function, or is for another number of heads or dimensions.
        """
        if self.legal.isdisjoint(gauge.groups):
            raise IllegalGauge(
                f"A gauge of the {gauge.group} group changes the function at {self.label}; "
                f"legal there: {listed(self.legal)}."
            )
        if (gauge.batch, gauge.width) != (self.heads, self.width):
            raise IllegalGauge(
                f"A gauge for {gauge.batch} heads of {gauge.width} dimensions doesn't fit {self.label}; "
                f"expected {self.heads} of {self.width}."
            )
        stacks = self.stacked(left, right).moved(gauge)
        return self.left.unstack(stacks.left, left), self.right.unstack(stacks.right, right)

    def apply(self, checkpoint: Mapping[str, Tensor], gauge: GaugeLike) -> dict[str, Tensor]:
        """The tensors in `names` under a gauge, in their own dtype.

        Raises:
            BadInput: If a tensor holds NaN or infinity.
            IllegalGauge: See `moved`.
        """
        tensors = self.write(checkpoint, *self.moved(*self.read(checkpoint), gauge))
        return {name: tensors[name] for name in self.names}
