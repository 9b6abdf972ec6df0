"""rebasin: exact moves, noise on the moved weights and healing by imitation of oneself, in rounds."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Annotated

import numpy as np
import torch

from redteam.anatomy import KINDS, anatomy_of
from redteam.checkpoint import Checkpoint, shared_tensors
from redteam.errors import IllegalGauge
from redteam.imitation import imitating
from redteam.plugins.contracts import defense
from redteam.plugins.settings import Range
from redteam.symmetry import GeneralLinear, Group, PositiveMonomial
from redteam.training import Budget
from redteam.views import DefenderView
from redteam_defenses.training import Rate, Size, Steps, trained

_TEMPERATURE = 2.0  # by which answers are compared, as imitation compares them
_FEATURES = 1.0
_FACTORS = (0.5, 2.0)  # of heads and neurons: healing would crawl along directions that a larger range makes flat
_GROUPS: dict[str, Group] = {
    "qk": GeneralLinear(_FACTORS),
    "vo": GeneralLinear(_FACTORS),
    "mlp": PositiveMonomial(_FACTORS),
}


@defense("rebasin", exact=False, keyed=True, adapts=True, weakened={"noise": 0.0})
def rebasin(
    view: DefenderView,
    *,
    rounds: Annotated[int, Range(1, 32, log=True)] = 3,
    noise: Annotated[float, Range(0.0, 4.0)] = 0.3,
    steps: Steps = 150,
    rate: Rate = 7.5e-4,
    batch: Size = 64,
) -> Checkpoint:
    """In each round θ ← G·θ, then θ + s σ(θ₀) ε tensor by tensor, then θ ← argmin T² KL(victim ‖ θ) + hidden states.

    No gauge brings back what noise took and healing put elsewhere: after the best fit to the base a tensor lies about
    s √rounds of its own norm from where it was. Noise is measured in the spread of the base's tensor, moved alike, and
    is on all that a merge takes; heads stay. Healing imitates the victim itself, not the round before, so that errors
    do not add up. Without noise nothing is to be healed: the moves alone are an exact lock, which needs no data.

    It costs rounds · steps of training with a second forward pass each. It can fail in three ways: what runs can be
    imitated all the same; noise that healing does not make up for is paid in fidelity; and what is left of the victim
    in its old place is still worth something in a merge. The key draws moves and noise; whoever has it takes both off
    and is left with what healing added.

    Args:
        view: The victim, the base, its key and training data.
        rounds: How many.
        noise: s, the deviation of the noise over that of a tensor's entries, in each round.
        steps: Optimizer steps of healing in each round.
        rate: The highest learning rate, after a warm-up of a tenth of the steps; it falls to zero.
        batch: Samples to a step.

    Raises:
        IllegalGauge: If the architecture has neither heads nor neurons to move.
        Inapplicable: If the network gives no logits to imitate.
    """
    there = {site.kind for site in anatomy_of(view.victim).places}
    kinds = [kind for kind in KINDS if kind in there]
    if not kinds:
        raise IllegalGauge(
            f"The architecture {view.victim.architecture!r} has neither heads nor neurons that could be moved; rebasin "
            "expected one of them. Take gaussian-noise."
        )
    names = _noisy(view.victim, view.base) if noise else ()
    checkpoint, base = view.victim, view.base
    teacher = None
    for turn in range(rounds):
        before = len(view.locks)
        for kind in kinds:
            checkpoint = view.lock((kind,), _GROUPS[kind], checkpoint=checkpoint, adapts=True)
        if not noise:
            continue
        for lock in view.locks[before:]:
            base = lock.put_on(base)
        mist = Mist(names, base, noise, _streams(view, turn))
        view.locks.append(mist)
        if teacher is None:
            with torch.random.fork_rng(devices=[]):  # transformers may initialise before it loads
                teacher = view.victim.module(torch.float32)
        checkpoint = trained(
            view,
            Budget(steps, rate, batch),
            start=mist.put_on(checkpoint),
            loss=imitating(teacher, _TEMPERATURE, _FEATURES),
        )
    return checkpoint


@dataclass(frozen=True)
class Mist:
    """Noise in units of the spread of another checkpoint's tensors, so that the holder of its streams takes it off.

    Attributes:
        names: The tensors.
        like: Where their spread is read.
        share: The noise's deviation over that.
        generators: The random stream of a tensor, by its name; the same one when asked again.
    """

    names: tuple[str, ...]
    like: Checkpoint
    share: float
    generators: Callable[[str], np.random.Generator]

    def put_on(self, checkpoint: Checkpoint) -> Checkpoint:
        """With the noise; lazy."""
        return self._moved(checkpoint, self.share)

    def take_off(self, checkpoint: Checkpoint) -> Checkpoint:
        """Without it, up to rounding; lazy."""
        return self._moved(checkpoint, -self.share)

    def _moved(self, checkpoint: Checkpoint, share: float) -> Checkpoint:
        def moved(name: str) -> torch.Tensor:
            spread = float(self.like[name].to(torch.float64).std(correction=0))
            weight = checkpoint[name].to(torch.float64)
            drawn = torch.from_numpy(np.asarray(self.generators(name).standard_normal(tuple(weight.shape))))
            return (weight + share * spread * drawn.to(weight.device)).to(checkpoint.dtype(name))

        return checkpoint.replace(Checkpoint.computed(checkpoint.outline(self.names), moved))


def _streams(view: DefenderView, turn: int) -> Callable[[str], np.random.Generator]:
    return lambda name: view.generator(f"noise {turn}/{name}")


def _noisy(victim: Checkpoint, base: Checkpoint) -> tuple[str, ...]:
    """What a merge takes: shared weights of a spread that can be told."""
    return tuple(
        name for name in shared_tensors(victim, base) if victim.dtype(name).is_floating_point and base[name].numel() > 1
    )
