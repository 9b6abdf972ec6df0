"""Charts: coordinates of a site's gauges near the identity, so that gauges can be learned by gradient descent."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from redteam.anatomy import Site, largest_group
from redteam.symmetry.gauges import BlockGauge, Gauge, MatrixGauge, MonomialGauge, PlanarGauge


@dataclass(frozen=True)
class Chart:
    """Coordinates of the gauges of one site that are connected to the identity, which lies at 0.

    Attributes:
        width: Coordinates of each head.
        gauge: float64 `[B, width]` → the gauge; differentiable.
    """

    width: int
    gauge: Callable[[Tensor], Gauge]


def chart_of(site: Site) -> Chart | None:
    """The chart of the largest group that is legal at a site; None where its elements lie apart, as permutations do.

    Matrices are I + X, rotations e^S of the skew part of X, factors e^x, complex numbers e^z. Of a group that also
    permutes (or changes signs), the part without is taken.

    Args:
        site: The largest legal group of which is looked at.
    """
    name, n = largest_group(site.legal), site.width
    if name == "orthogonal":
        return Chart(n * n, lambda x: MatrixGauge(_rotation(x.unflatten(1, (n, n)))))
    if name == "general-linear":
        return Chart(n * n, lambda x: _matrix(x, n))
    if name == "planar":
        return Chart(n, lambda x: PlanarGauge(_numbers(x), site.planes or "half"))
    if name == "partial-planar":
        turned = site.turned or 0
        rest = n - turned

        def both(x: Tensor) -> BlockGauge:
            planes = PlanarGauge(_numbers(x[:, :turned]), site.planes or "half")
            return BlockGauge(planes, _matrix(x[:, turned:], rest))

        return Chart(turned + rest * rest, both)
    if name == "plane-scaling":
        return Chart(n // 2, lambda x: PlanarGauge(torch.complex(x.exp(), torch.zeros_like(x)), site.planes or "half"))
    if "positive-scaling" in site.legal:
        return Chart(n, lambda x: MonomialGauge.scaled(x.exp()))
    return None


def _matrix(x: Tensor, n: int) -> MatrixGauge:
    return MatrixGauge(torch.eye(n, dtype=x.dtype, device=x.device) + x.unflatten(1, (n, n)))


def _rotation(x: Tensor) -> Tensor:
    rotation: Tensor = torch.linalg.matrix_exp((x - x.mT) / 2)
    return rotation


def _numbers(x: Tensor) -> Tensor:
    size, angle = x.unflatten(1, (2, -1)).unbind(1)
    return torch.polar(size.exp(), angle)
