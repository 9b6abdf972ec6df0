"""The groups that rotary embeddings leave at query and key: numbers for planes, a matrix where nothing is turned."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import ClassVar, get_args

import numpy as np
import torch

from redteam.anatomy import Layout, Stacks
from redteam.errors import BadInput, BadSetting
from redteam.symmetry.gauges import BlockGauge, MonomialGauge, PlanarGauge, planes_of
from redteam.symmetry.matrix_groups import GeneralLinear
from redteam.symmetry.sampling import Range, magnitudes, require_range, signs
from redteam.symmetry.solvers import require_finite
from redteam.symmetry.tied_scalar import scalars


@dataclass(frozen=True)
class Planar:
    """One complex number per rotary plane: what rotary embeddings leave of the general linear group at query and key.

    Attributes:
        scale: Range of the modulus, log-uniform; the angle is uniform.
        layout: Which rows make a plane: i and i + n/2 (`"half"`, Hugging Face), or 2i and 2i + 1 (`"interleaved"`).

    Raises:
        BadSetting: If the range is not 0 < low ≤ high, or the layout is unknown.
    """

    scale: Range = (0.1, 10.0)
    layout: Layout = "half"
    name: ClassVar[str] = "planar"

    def __post_init__(self) -> None:
        require_range(self.scale, "the modulus", "[0.1, 10]")
        _require_layout(self.layout)

    def sample(self, batch: int, width: int, generator: np.random.Generator) -> PlanarGauge:
        """Independent numbers.

        Raises:
            BadInput: If the width is odd.
        """
        _require_even(width)
        modulus = magnitudes(self.scale, batch, width // 2, generator)
        angle = torch.from_numpy(generator.uniform(0, 2 * math.pi, (batch, width // 2)))
        return PlanarGauge(torch.polar(modulus, angle), self.layout)

    def fit(self, moving: Stacks, target: Stacks) -> PlanarGauge:
        """The tied fit plane by plane (`redteam.symmetry.tied_scalar`), the global minimum; `scale` plays no part.

        Raises:
            BadInput: If a stack holds NaN or infinity, or the width is odd.
        """
        planes = (planes_of(x, self.layout) for x in (moving.left, moving.right, target.left, target.right))
        return PlanarGauge(scalars(*planes), self.layout)


@dataclass(frozen=True)
class PlaneScaling:
    """One real number per rotary plane: what the gains of a norm of queries and keys can exchange.

    Attributes:
        scale: Range of the numbers' sizes, log-uniform; signs are random.
        layout: As in `Planar`.
        turned: How many dimensions of a head the planes cover; each of the others has a number of its own. All by
            default.

    Raises:
        BadSetting: If the range is not 0 < low ≤ high, the layout is unknown, or no even number is turned.
    """

    scale: Range = (0.1, 10.0)
    layout: Layout = "half"
    turned: int | None = None
    name: ClassVar[str] = "plane-scaling"

    def __post_init__(self) -> None:
        require_range(self.scale, "the factors", "[0.1, 10]")
        _require_layout(self.layout)
        _require_turned(self.turned)

    def sample(self, batch: int, width: int, generator: np.random.Generator) -> PlanarGauge | BlockGauge:
        """Independent numbers; raises BadInput if no planes fit the width."""
        return _numbers(
            lambda count: magnitudes(self.scale, batch, count, generator) * signs(batch, count, generator),
            width,
            self.turned,
            self.layout,
        )

    def fit(self, moving: Stacks, target: Stacks) -> PlanarGauge | BlockGauge:
        """The tied fit plane by plane, the global minimum; `scale` plays no part.

        Raises:
            BadInput: If a stack holds NaN or infinity, or no planes fit the width.
        """
        return _fitted(scalars, moving, target, self.turned, self.layout)


@dataclass(frozen=True)
class PlaneSigns:
    """A sign per rotary plane: what a norm of queries and keys leaves of a planar lock on their weights.

    Attributes:
        layout: As in `Planar`.
        turned: As in `PlaneScaling`.

    Raises:
        BadSetting: If the layout is unknown, or no even number is turned.
    """

    layout: Layout = "half"
    turned: int | None = None
    name: ClassVar[str] = "plane-signs"

    def __post_init__(self) -> None:
        _require_layout(self.layout)
        _require_turned(self.turned)

    def sample(self, batch: int, width: int, generator: np.random.Generator) -> PlanarGauge | BlockGauge:
        """Each sign as likely; raises BadInput if no planes fit the width."""
        return _numbers(lambda count: signs(batch, count, generator), width, self.turned, self.layout)

    def fit(self, moving: Stacks, target: Stacks) -> PlanarGauge | BlockGauge:
        """The signs of `⟨left, left0⟩ + ⟨right, right0⟩` over the rows of a plane; exact.

        Raises:
            BadInput: If a stack holds NaN or infinity, or no planes fit the width.
        """
        return _fitted(_likelier, moving, target, self.turned, self.layout)


@dataclass(frozen=True)
class PartialPlanar:
    """Where a rotary embedding turns the first dimensions of a head: planar there, general linear on the rest.

    Attributes:
        turned: How many dimensions are turned.
        scale: Range of the moduli, and of the matrix's diagonal.
        layout: As in `Planar`.

    Raises:
        BadSetting: If the range is not 0 < low ≤ high, the layout is unknown, or no even number is turned.
    """

    turned: int = 2
    scale: Range = (0.1, 10.0)
    layout: Layout = "half"
    name: ClassVar[str] = "partial-planar"

    def __post_init__(self) -> None:
        require_range(self.scale, "the modulus", "[0.1, 10]")
        _require_layout(self.layout)
        _require_turned(self.turned)

    def sample(self, batch: int, width: int, generator: np.random.Generator) -> BlockGauge:
        """Planar and general linear elements, independently; raises BadInput if no dimension is left to be mixed."""
        self._require_rest(width)
        planes = Planar(self.scale, self.layout).sample(batch, self.turned, generator)
        return BlockGauge(planes, GeneralLinear(self.scale).sample(batch, width - self.turned, generator))

    def fit(self, moving: Stacks, target: Stacks) -> BlockGauge:
        """The tied fits of both parts, which the tied objective keeps apart.

        Raises:
            BadInput: If a stack holds NaN or infinity, or no dimension is left to be mixed.
        """
        self._require_rest(moving.left.shape[1])
        (first, last), (first0, last0) = (
            tuple(Stacks(x.left[:, part], x.right[:, part]) for part in (slice(self.turned), slice(self.turned, None)))
            for x in (moving, target)
        )
        return BlockGauge(Planar(layout=self.layout).fit(first, first0), GeneralLinear().fit(last, last0))

    def _require_rest(self, width: int) -> None:
        if width <= self.turned:
            raise BadInput(f"A head of {width} dimensions is turned whole by {self.turned}; a planar group fits it.")


def _numbers(
    draw: Callable[[int], torch.Tensor], width: int, turned: int | None, layout: Layout
) -> PlanarGauge | BlockGauge:
    """A real number for each plane, and where these don't cover a head, one for each of the other dimensions."""
    covered = width if turned is None else turned
    _require_even(covered)
    planes = _real(draw(covered // 2), layout)
    return planes if covered == width else BlockGauge(planes, MonomialGauge.scaled(draw(width - covered)))


_Solver = Callable[[torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor], torch.Tensor]


def _fitted(
    solve: _Solver, moving: Stacks, target: Stacks, turned: int | None, layout: Layout
) -> PlanarGauge | BlockGauge:
    """As `_numbers`, each number solved for alone."""
    stacks = (moving.left, moving.right, target.left, target.right)
    covered = moving.left.shape[1] if turned is None else turned
    planes = _real(solve(*(_flat(x[:, :covered], layout) for x in stacks)), layout)
    if covered == moving.left.shape[1]:
        return planes
    return BlockGauge(planes, MonomialGauge.scaled(solve(*(x[:, covered:] for x in stacks))))


def _likelier(left: torch.Tensor, right: torch.Tensor, left0: torch.Tensor, right0: torch.Tensor) -> torch.Tensor:
    product = torch.linalg.vecdot(left, left0) + torch.linalg.vecdot(right, right0)
    require_finite(product)
    return torch.where(product < 0, -1.0, 1.0).to(product)


def _real(number: torch.Tensor, layout: Layout) -> PlanarGauge:
    return PlanarGauge(torch.complex(number, torch.zeros_like(number)), layout)


def _flat(stack: torch.Tensor, layout: Layout) -> torch.Tensor:
    """The two rows of each plane one after the other: [B, n, k] → [B, n/2, 2k]."""
    planes = planes_of(stack, layout)
    return torch.cat([planes.real, planes.imag], dim=-1)


def _require_even(width: int) -> None:
    if width % 2:
        raise BadInput(f"A head of {width} dimensions has no rotary planes; expected an even number of dimensions.")


def _require_layout(layout: str) -> None:
    if layout not in get_args(Layout):
        raise BadSetting(f"The layout is {layout!r}; expected 'half' or 'interleaved'.")


def _require_turned(turned: int | None) -> None:
    if turned is not None and (turned < 2 or turned % 2):
        raise BadSetting(f"{turned} dimensions are turned; expected an even number of at least 2.")
