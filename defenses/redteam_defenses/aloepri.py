"""AloePri without its vocabulary: the whole network at once, a wider stream, every head and neuron, and noise."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Annotated, Literal

import numpy as np

from redteam.anatomy import Site, anatomy_of
from redteam.checkpoint import Checkpoint, shared_tensors
from redteam.errors import IllegalGauge
from redteam.plugins.contracts import defense
from redteam.plugins.settings import Range
from redteam.symmetry import GeneralLinear, Group, Monomial, PartialPlanar, Permutation, Planar
from redteam.symmetry.fitting import Lock, moved
from redteam.symmetry.key_matrices import KeyMatrices
from redteam.symmetry.planes import ExchangeLock
from redteam.symmetry.shift_lock import Reversible
from redteam.symmetry.stream_ends import stream_ends
from redteam.symmetry.widening import Widening
from redteam.views import DefenderView
from redteam_defenses.gaussian_noise import Noise

_ORDERS = ("experts", "heads", "queries")


@defense(
    "aloepri",
    exact=False,
    keyed=True,
    adapts=True,
    changes_architecture=True,
    weakened={"stream": "rotated", "window": 1, "noise": (0.0, 0.0)},
    claim="DeepSeek-V3.1-Terminus, 671B: 0 to 3.5 % of accuracy lost, under 5 % of tokens recovered (paper).",
    paper="arXiv:2603.01499",
)
def aloepri(
    view: DefenderView,
    *,
    stream: Literal["key-matrices", "rotated"] = "key-matrices",
    extra: Annotated[int, Range(1, 512)] = 128,
    skew: Annotated[float, Range(0.0, 1.0)] = 0.3,
    window: Annotated[int, Range(1, 64)] = 8,
    noise: Annotated[tuple[float, float], Range(0.0, 4.0)] = (1.0, 0.2),
    scale: Annotated[tuple[float, float], Range(1e-3, 1e3, log=True, rising=True)] = (0.5, 2.0),
) -> Checkpoint:
    """x ← x P, P [d, d + 2h]; planar and exchanged planes at qk, invertible at vo, experts, heads, neurons reordered.

    The vocabulary keeps its order. Norms are told κ = E |x P| / |x|, corrected by √(d / (d + 2h)) for the dimensions
    that they divide by; embeddings and head get noise before P. What is approximate: κ, the planes' exchange and the
    noise. With the settings of the weakened variant nothing is. The paper was read through the audits of those who
    implemented it; λ, the scales and the size of C are not among what they quote, so that those here are ours. Under a
    norm of queries and keys planes keep their order.

    Args:
        view: The victim, the base and its key.
        stream: `"key-matrices"` as published, every map with a basis of its own; `"rotated"` as `wide-stream`, exact.
        extra: h. No more than an eighth of the model's width is taken: the paper's 128 belong to a width of thousands.
        skew: λ in B = U + λ V, how far the stream's basis is from a rotation.
        window: How many neighbouring planes are exchanged at most; 1 leaves them.
        noise: Of the base's embeddings and head: the norm of what is added, as a share of the tensor's own. Tied heads
            are refused with key matrices, and what the base lacks gets none.
        scale: Between which the moduli of planes and the factors of neurons are drawn.
    """
    kinds = {site.kind for site in anatomy_of(view.victim).places}
    if not any(site.planes for site in anatomy_of(view.victim).sites(("qk",))):
        raise IllegalGauge(
            f"No rotary embedding turns queries and keys of {view.victim.architecture!r}, and AloePri is made for "
            "networks with rotary planes and RMSNorms, such as 'llama'; take general-linear or wide-stream."
        )
    Widening(view.victim)  # refuses what no rotation of the stream leaves as it is
    partly = any("partial-planar" in site.legal for site in anatomy_of(view.victim).sites(("qk",)))
    groups: list[tuple[tuple[str, ...], Group]] = [
        (_ORDERS, Permutation()),
        (("mlp",), Monomial(scale)),
        (("vo",), GeneralLinear(scale=(1.0, 1.0), factor="gaussian")),
        (("qk",), PartialPlanar(scale=scale) if partly else Planar(scale)),
    ]
    checkpoint, before = view.victim, len(view.locks)
    for wanted, group in groups:
        there = tuple(kind for kind in wanted if kind in kinds)
        checkpoint = view.lock(there, group, checkpoint=checkpoint, adapts=True)
    view.locks[before:] = [Anywhere(**vars(lock)) for lock in view.locks[before:]]
    rest: list[Reversible] = [
        ExchangeLock(window, lambda label: view.generator(f"planes {label}")),
        EndNoise(noise, view.base, lambda name: view.generator(f"noise {name}")),
        KeyMatrices(extra, skew, lambda label: view.generator(f"stream {label}"), view.base, even=stream == "rotated"),
    ]
    view.locks.extend(rest)
    for lock in rest:
        checkpoint = lock.put_on(checkpoint)
    return checkpoint


class Anywhere(Lock):
    """A lock that looks its sites up in the checkpoint at hand, since a wider stream lays packed maps out otherwise."""

    def put_on(self, checkpoint: Checkpoint) -> Checkpoint:
        """As `Lock.put_on`."""
        return moved(checkpoint, self._here(checkpoint), self.gauge)

    def take_off(self, checkpoint: Checkpoint) -> Checkpoint:
        """As `Lock.take_off`."""
        return moved(checkpoint, self._here(checkpoint), lambda site: self.gauge(site).inverse())

    def _here(self, checkpoint: Checkpoint) -> tuple[Site, ...]:
        wanted = {site.label for site in self.sites}
        return tuple(site for site in anatomy_of(checkpoint).inner if site.label in wanted)


@dataclass(frozen=True)
class EndNoise:
    """Noise on embeddings and head, each in units of the base's own.

    Attributes:
        shares: Its norm over that of the base's embeddings, and over that of the base's head.
        base: The public model.
        generators: The random stream of a tensor, by its name.
    """

    shares: tuple[float, float]
    base: Checkpoint
    generators: Callable[[str], np.random.Generator]

    def put_on(self, checkpoint: Checkpoint) -> Checkpoint:
        """With the noise, where the base has a tensor of that shape; lazy."""
        for noise in self._noises(checkpoint):
            checkpoint = noise.put_on(checkpoint)
        return checkpoint

    def take_off(self, checkpoint: Checkpoint) -> Checkpoint:
        """Without it; lazy."""
        for noise in self._noises(checkpoint):
            checkpoint = noise.take_off(checkpoint)
        return checkpoint

    def _noises(self, checkpoint: Checkpoint) -> Iterator[Noise]:
        shared = set(shared_tensors(checkpoint, self.base))
        for names, share in zip(stream_ends(checkpoint), self.shares, strict=True):
            there = tuple(name for name in names if name in shared)
            if share > 0 and there:
                yield Noise(there, self.base, "weights", share, self.generators)
