"""Adapter gauge: the two factors of a low-rank adapter in secret coordinates, module by module."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Annotated, ClassVar, Literal

import torch

from redteam.checkpoint import Checkpoint
from redteam.checkpoint.adapters import core
from redteam.checkpoint.factors import Factors
from redteam.plugins.contracts import defense
from redteam.plugins.settings import Range
from redteam.symmetry import Gauge, GeneralLinear, MatrixGauge, Orthogonal, Scaling
from redteam.views import DefenderView


@dataclass(frozen=True)
class AdapterGauge:
    """A gauge of the inner side of every product B A.

    Attributes:
        gauge: Gives that of a tensor, of a rank; the same one whenever it is asked.
    """

    gauge: Callable[[str, int], Gauge]
    kinds: ClassVar[tuple[str, ...]] = ("factors",)

    def put_on(self, checkpoint: Checkpoint) -> Checkpoint:
        """A ← G A, B ← B G⁻¹; lazy."""
        return checkpoint.refactored(lambda name, own: _moved(own, self.gauge(name, own.rank)))

    def take_off(self, checkpoint: Checkpoint) -> Checkpoint:
        """A ← G⁻¹ A, B ← B G; lazy."""
        return checkpoint.refactored(lambda name, own: _moved(own, self.gauge(name, own.rank).inverse()))


@defense("adapter-gauge", exact=True, keyed=True, factors=True, weakened={"group": "scaling", "scale": (0.5, 2.0)})
def adapter_gauge(
    view: DefenderView,
    *,
    group: Literal["general-linear", "orthogonal", "scaling"] = "general-linear",
    scale: Annotated[tuple[float, float], Range(1e-6, 1e6, log=True, rising=True)] = (0.1, 10.0),
) -> Checkpoint:
    """A ← G A, B ← B G⁻¹ with an invertible r × r matrix G for every adapted module; s B A stays what it is.

    It stands in the way of tools that combine factors apart, as peft's `linear`, `ties`, `dare_linear`, `dare_ties` and
    `magnitude_prune` do. What multiplies the factors out first, as `cat`, `svd` and every merge of whole models do,
    does not see it; `multiply-out` is that.

    Args:
        view: The adapter over its base, and the key.
        group: `"general-linear"` draws U S Vᵀ with Haar-distributed U, V, whose condition number is at most high/low;
            `"orthogonal"` draws rotations and reflections, which keep ‖A‖ and ‖B‖; `"scaling"` one factor per row of A,
            with random signs.
        scale: Between which the entries of S, or the factors, are drawn, log-uniformly.
    """

    def gauge(name: str, rank: int) -> Gauge:
        # By the name that every spelling of the base has, so that the key's holder may have another one.
        draws = view.generator(f"factors of {core(name)}")
        if group == "scaling":
            return Scaling(scale=scale).sample(1, rank, draws)
        if group == "orthogonal":
            return Orthogonal().sample(1, rank, draws)
        inner = GeneralLinear(scale=scale, factor="rotation").sample(1, rank, draws)
        return MatrixGauge(Orthogonal().sample(1, rank, draws).matrix @ inner.matrix)

    lock = AdapterGauge(gauge)
    view.locks.append(lock)
    return lock.put_on(view.victim)


def _moved(own: Factors, gauge: Gauge) -> Factors:
    wide = own.to(dtype=torch.float64)
    return Factors(gauge.right(wide.up.mT[None])[0].mT, gauge.left(wide.down[None])[0], own.scale)
