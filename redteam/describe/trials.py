"""What a network computes, before and after a rewrite: how every guess about it is judged."""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import cached_property

import numpy as np
import torch
from torch import Tensor

from redteam.anatomy import Anatomy, Architecture, Side, Site, find_sites
from redteam.anatomy.architecture import ArchitectureLike
from redteam.anatomy.auto import described_as
from redteam.checkpoint import Checkpoint
from redteam.errors import BadInput, NotACheckpoint, RedteamError
from redteam.symmetry import largest_legal_group
from redteam.symmetry.fitting import apart, fit_gauges, looked_up, moved
from redteam.symmetry.gauges import Gauge
from redteam.symmetry.running import NO_EPS, Ran, run_network, run_on_inputs
from redteam.symmetry.shift_lock import random_shifts

KEPT = 1e-9
"""The largest change of the outputs, in units of their size in float64, of what keeps the function. Wrong guesses
change them by 1e-4 and more."""
_TRIES = 50
_TRAINED = 0.4  # logarithm of a factor
_SEEN = 1e-6  # of a tensor drawn anew, where the network runs it


@dataclass(frozen=True, eq=False)
class Trial:
    """A small random network of a model type, on which rewrites are tried.

    Attributes:
        checkpoint: Its weights, float64, none at a value that hides anything.
        inputs: On which it is run, one after the other.
        states: Whether what an encoder hands on counts, which other networks of its weights give out.
        noticed: By the name of a tensor, whether the outputs change with it, as far as that was asked.
    """

    checkpoint: Checkpoint
    inputs: list[dict[str, Tensor]] = field(default_factory=list)
    noticed: dict[str, bool] = field(default_factory=dict)
    states: bool = True

    @classmethod
    def of(cls, checkpoint: Checkpoint) -> Trial:
        """With weights drawn anew and inputs made up.

        Raises:
            BadInput: If no inputs can be made up, or the network does not run on them.
        """
        weights = {name: drawn(name, tensor) for name, tensor in checkpoint.items()}
        trial = cls(Checkpoint.of(weights, checkpoint.config))
        _, tried = run_on_inputs(trial.checkpoint, None, 0, torch.float64)
        trial.inputs.extend(dict(inputs) for inputs in tried)
        if not trial.exact.outputs or not trial.exact.finite:
            raise BadInput("The network gives no finite outputs on random weights and inputs.")
        return trial

    @cached_property
    def exact(self) -> Ran:
        """What it computes."""
        return run_network(self.checkpoint, self.inputs, torch.float64)

    @cached_property
    def without_eps(self) -> Ran:
        """What it computes where norms add no eps."""
        return run_network(self.checkpoint, self.inputs, torch.float64, eps=NO_EPS)

    def change(self, other: Checkpoint, *, eps: bool = True) -> float:
        """`max|Δ| / max|output|`, the largest over outputs and encoder's states; infinity where it does not run."""
        try:
            ran = run_network(other, self.inputs, torch.float64, eps=None if eps else NO_EPS)
        except (BadInput, NotACheckpoint):
            return math.inf
        exact = self.exact if eps else self.without_eps
        return max(ran.change(exact), ran.change_of_states(exact) if self.states else 0.0)

    def anatomy(self, architecture: Architecture | ArchitectureLike) -> Anatomy | None:
        """The sites that follow from a guess; None where it does not fit the tensors."""
        try:
            found = find_sites(architecture, self.checkpoint)
            found.places  # noqa: B018 (streams are found on demand)
        except (BadInput, KeyError, RuntimeError, ZeroDivisionError, StopIteration):
            return None
        return found

    def kept(self, architecture: Architecture | ArchitectureLike, kind: str, draws: int = 2) -> float:
        """The largest change under the largest groups that a guess calls legal at all sites of a kind.

        Infinity where there are no such sites, or where the network takes no notice of what they move: what it does not
        run is kept by anything.
        """
        anatomy = self.anatomy(architecture)
        sites = () if anatomy is None else anatomy.sites((kind,))
        if not sites or not all(any(self._sees(site) for site in group) for group in _ends(sites)):
            return math.inf
        worst = 0.0
        for draw in range(draws):
            try:
                locked = self.locked_at(sites, draw)
                worst = max(worst, self.change(locked, eps=kind != "norm-scale"))
            except (RedteamError, RuntimeError, IndexError, ValueError):
                return math.inf
            if worst > KEPT:
                break
        return worst

    def _sees(self, site: Site) -> bool:
        """Whether the outputs change with both sides: with what comes first on the left, and with something right."""

        def any_of(sides: Sequence[Side]) -> bool:
            maps = (one for side in sides for one in getattr(side.linear, "linears", (side.linear,)))
            return any(self._notices(one.weight) for one in maps)

        return any_of(site.lefts[:1]) and (not site.rights or any_of(site.rights))

    def _notices(self, name: str) -> bool:
        """Whether the outputs change with a tensor."""
        if name not in self.noticed:
            tensor = self.checkpoint[name]
            draws = np.random.default_rng(list(name.encode())[::-1])
            noise = torch.from_numpy(np.asarray(draws.standard_normal(tuple(tensor.shape))))
            self.noticed[name] = self.change(self.checkpoint.replace({name: tensor + noise})) > _SEEN
        return self.noticed[name]

    def back(self, architecture: Architecture | ArchitectureLike, kind: str) -> float:
        """What is left of a lock of a kind after the closed-form fit to the original, over the original's norm."""
        with self.known_as(architecture):
            sites = find_sites(architecture, self.checkpoint).sites((kind,))
            locked = self.locked_at(sites)
            fitted = fit_gauges(locked, self.checkpoint, (kind,), None)
            left = sum(float((fitted[name] - tensor).square().sum()) for name, tensor in self.checkpoint.items())
        size = sum(float(tensor.square().sum()) for tensor in self.checkpoint.values())
        return math.sqrt(left / size)

    def locked_at(self, sites: Sequence[Site], seed: int = 0) -> Checkpoint:
        """With an element of the largest group at every site; those that share a tensor one after the other."""
        locked, generator = self.checkpoint, np.random.default_rng(seed)
        for some in apart(sites):
            gauges = {site.label: _moving(site, generator) for site in some}
            locked = moved(locked, some, looked_up(gauges))
        return Checkpoint.of(dict(locked), locked.config)

    def shifted(self, architecture: Architecture | ArchitectureLike, kinds: Iterable[str]) -> float:
        """The change under additive freedoms that follow from a guess; infinity where there are none."""
        try:
            with self.known_as(architecture):
                anatomy = find_sites(architecture, self.checkpoint)
                there = [kind for kind in kinds if anatomy.sites((kind,))]
                found = random_shifts(self.checkpoint, np.random.default_rng(0), 10.0, there)
                same = all(bool((found[name] == tensor).all()) for name, tensor in self.checkpoint.items())
                return math.inf if not there or same else self.change(found)
        except (RedteamError, RuntimeError):
            return math.inf

    @contextmanager
    def known_as(self, architecture: Architecture | ArchitectureLike) -> Iterator[None]:
        """While it is active, the model type is described by a guess."""
        with described_as(self.checkpoint.architecture, architecture):
            yield


def _moving(site: Site, generator: np.random.Generator) -> Gauge:
    """An element of the largest group at a site, but the one that changes nothing: of two heads, every other is."""
    for _ in range(_TRIES):
        gauge = largest_legal_group(site).sample(site.heads, site.width, generator)
        if not gauge.neutral and not (site.kind == "norm-scale" and _near_one(gauge)):
            break
    return gauge


def _near_one(gauge: Gauge) -> bool:
    """Whether a factor is one that training may leave, which no fit takes for a lock."""
    one = torch.ones(gauge.batch, gauge.width, 1, dtype=torch.float64)
    return bool((gauge.left(one).log().abs() < _TRAINED).any())


def _ends(sites: Sequence[Site]) -> Iterator[list[Site]]:
    """The first and the last site of each part; all experts of such a layer, since a router may choose but some."""
    parts: dict[str, dict[int, list[Site]]] = {}
    for site in sites:
        parts.setdefault(re.sub(r"\d+", "", site.part), {}).setdefault(site.layer, []).append(site)
    for layers in parts.values():
        first, *_, last = (*layers.values(), *layers.values())
        yield from (first, last)


def drawn(name: str, like: Tensor) -> Tensor:
    """A tensor drawn by its name, float64, with no number at a value (0 or 1) that would hide that it was forgotten."""
    if not like.is_floating_point():
        return like
    draws = np.random.default_rng(list(name.encode()))
    noise = torch.from_numpy(np.asarray(draws.standard_normal(tuple(like.shape))))
    if name.endswith("running_var"):
        return 0.5 + noise.abs()
    if name.endswith("weight") and (like.ndim == 1 or "norm" in name.lower() or ".ln_" in name):
        return (0.5 + noise.abs()) * noise.sign()
    return noise * (0.3 if like.ndim <= 1 else 1 / math.sqrt(max(1, math.prod(like.shape[1:]))))
