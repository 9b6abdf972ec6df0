"""Gaussian noise: what a lock has to be better than, noise of a given norm on the same tensors."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Annotated, Literal

import numpy as np
import torch

from redteam.anatomy import Sites, anatomy_of
from redteam.checkpoint import Checkpoint, shared_tensors
from redteam.plugins.contracts import defense
from redteam.plugins.settings import Range
from redteam.views import DefenderView

Unit = Literal["task-vector", "weights"]
_FARTHEST = 10.0  # how much longer τ can be than τ + s ‖τ‖ u before a root is taken for the wrong key's


@defense("gaussian-noise", exact=False, keyed=True, protects=False, weakened={"unit": "weights", "share": 1.0})
def gaussian_noise(
    view: DefenderView,
    *,
    sites: Sites = ("qk", "vo"),
    unit: Unit = "task-vector",
    share: Annotated[float, Range(0.01, 100.0, log=True)] = 1.0,
) -> Checkpoint:
    """W ← W + share · ‖W − W₀‖ · U for every tensor of the sites, U a random direction, ‖U‖ = 1.

    "At matched norm" can mean two things. The default matches the task vector: as far again as fine-tuning went, the
    most that a victim can be expected to bear. `unit="weights", share=1.4` matches what a rotation lock changes
    (√2 ‖W‖), which no victim bears, and so says what the symmetry of a lock is worth. The default sites are
    MergeLock's. The holder of the key computes the norm from the base and takes the noise off again.

    Args:
        view: The victim, the base and its key.
        sites: Kinds of the sites whose tensors get noise.
        unit: What the noise is measured in, tensor by tensor: ‖W − W₀‖ or ‖W₀‖.
        share: Norm of the noise in that unit.
    """
    names = dict.fromkeys(name for site in anatomy_of(view.victim).sites(sites) for name in site.names)
    shared = set(shared_tensors(view.victim, view.base))
    noise = Noise(tuple(name for name in names if name in shared), view.base, unit, share, view.generator)
    view.locks.append(noise)
    return noise.put_on(view.victim)


@dataclass(frozen=True)
class Noise:
    """Noise that the holder of its random streams can take off again.

    Attributes:
        names: The tensors.
        base: The public model.
        unit: See `gaussian_noise`.
        share: See `gaussian_noise`.
        generators: The random stream of a tensor, by its name.
    """

    names: tuple[str, ...]
    base: Checkpoint
    unit: Unit
    share: float
    generators: Callable[[str], np.random.Generator]

    def put_on(self, checkpoint: Checkpoint) -> Checkpoint:
        """With the noise; lazy."""

        def moved(name: str) -> torch.Tensor:
            start = self.base[name].to(torch.float64)
            weight = checkpoint[name].to(torch.float64)
            norm = float((weight - start).norm() if self.unit == "task-vector" else start.norm())
            return (weight + self.share * norm * self._direction(name, start)).to(checkpoint.dtype(name))

        return checkpoint.replace(Checkpoint.computed(checkpoint.outline(self.names), moved))

    def take_off(self, checkpoint: Checkpoint) -> Checkpoint:
        """Without it, up to rounding; see `_norm`. Lazy."""

        def moved(name: str) -> torch.Tensor:
            start = self.base[name].to(torch.float64)
            weight, direction = checkpoint[name].to(torch.float64), self._direction(name, start)
            norm = float(start.norm()) if self.unit == "weights" else self._norm(weight - start, direction)
            return (weight - self.share * norm * direction).to(checkpoint.dtype(name))

        return checkpoint.replace(Checkpoint.computed(checkpoint.outline(self.names), moved))

    def _direction(self, name: str, like: torch.Tensor) -> torch.Tensor:
        noise = torch.from_numpy(np.asarray(self.generators(name).standard_normal(tuple(like.shape)))).to(like.device)
        direction: torch.Tensor = noise / noise.norm()
        return direction

    def _norm(self, noisy: torch.Tensor, direction: torch.Tensor) -> float:
        """x = ‖τ‖, given τ + s x u and u: the root of ‖noisy − s x u‖² = x², which is quadratic.

        Where there are two positive roots (s > 1) the smaller one is meant, unless τ happens to point along −u. Under
        the wrong u there may be none.
        """
        s, along, square = self.share, float((noisy * direction).sum()), float(noisy.square().sum())
        highest = [] if abs(s - 1) < 1e-9 else [s * s - 1]
        roots = np.roots([*highest, -2 * s * along, square])
        real = [float(root.real) for root in roots if abs(root.imag) <= 1e-6 * abs(root)]
        return min((x for x in real if 0 < x <= _FARTHEST * square**0.5), default=0.0)
