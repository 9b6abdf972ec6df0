"""What sites and gauges have to do with one another: the stacks that a gauge moves, and what a site needs of it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

from torch import Tensor

from redteam.anatomy.legality import Layout


class GaugeLike(Protocol):
    """What a site needs of a gauge (`redteam.symmetry.MatrixGauge`, `MonomialGauge` and `PlanarGauge` are some)."""

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
    def turned(self) -> int | None:
        """How many dimensions of a head its planes cover; None if it knows none."""

    @property
    def power(self) -> int:
        """By which power of its factors the right side is divided."""

    @property
    def neutral(self) -> bool:
        """Whether it is known to change nothing."""

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

    def carried(self, stack: Tensor, /) -> Tensor:
        """The permutation in G, applied to a stack."""


@dataclass(frozen=True, eq=False)
class Stacks:
    """The stacks of a site.

    Attributes:
        left: float64 [B, n, a].
        right: float64 [B, n, c].
        carried: float64 [B, n, e], None where nothing is carried.
    """

    left: Tensor
    right: Tensor
    carried: Tensor | None = None

    def part(self, columns: int) -> Stacks:
        """About so many columns of each stack, evenly spread; all of one that has fewer."""

        def thinned(stack: Tensor) -> Tensor:
            return stack[:, :, :: max(1, stack.shape[2] // columns)]

        carried = None if self.carried is None else thinned(self.carried)
        return Stacks(thinned(self.left), thinned(self.right), carried)

    def moved(self, gauge: GaugeLike) -> Stacks:
        """`G left`, `G⁻ᵀ right`, and what is carried reordered."""
        carried = None if self.carried is None else gauge.carried(self.carried)
        return Stacks(gauge.left(self.left), gauge.right(self.right), carried)

    def distance(self, other: Stacks) -> float:
        """`‖left − left′‖² + ‖right − right′‖² + ‖carried − carried′‖²`, over all heads."""
        pairs = [(self.left, other.left), (self.right, other.right)]
        if self.carried is not None and other.carried is not None:
            pairs.append((self.carried, other.carried))
        return float(sum((here - there).square().sum() for here, there in pairs))
