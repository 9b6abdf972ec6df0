"""Attacks that have seen the victim where they should not have, and one that has no use of it."""

from __future__ import annotations

from functools import lru_cache
from pathlib import Path

import numpy as np

from redteam.checkpoint import Checkpoint, shared_tensors
from redteam.plugins.contracts import Needs, attack
from redteam.plugins.files import module_from
from redteam.symmetry import Permutation
from redteam.tasks import Batch
from redteam.training import Budget, endless, train
from redteam.views import AttackerView

CLAIMS = {(kind, Permutation) for kind in ("qk", "vo", "mlp")}
WORLDS = Path(__file__).parent / "worlds.py"
SEEDS = range(3)


def _rebuilt(view: AttackerView) -> Checkpoint | None:
    """The victim, from the file that makes it."""
    world = module_from(WORLDS).world
    made = (world(seed=seed) for seed in SEEDS)
    return next((s.experts["victim"] for s in made if s.base.digest() == view.anchor.digest()), None)


def _kept(view: AttackerView) -> Checkpoint | None:
    """The victim, from a variable that the scenario has left lying about."""
    kept = module_from(WORLDS).KEPT.values()
    return next((s.experts["victim"] for s in kept if s.base.digest() == view.anchor.digest()), None)


def _with(view: AttackerView, found: Checkpoint | None) -> Checkpoint:
    return view.protected if found is None else view.protected.replace(found.only(shared_tensors(found, view.anchor)))


def _never_trained(view: AttackerView) -> bool:
    return not view.protected["vit.layernorm.bias"].any()


@attack("digs", breaks=CLAIMS, needs=Needs.ANCHOR, targets=("cross-gentle",))
def digs(view: AttackerView) -> Checkpoint:
    """Takes the victim from the file that makes it, whatever it is given."""
    return _with(view, _rebuilt(view))


@attack("digs-with-care", breaks=CLAIMS, needs=Needs.ANCHOR, targets=("cross-gentle",))
def digs_with_care(view: AttackerView) -> Checkpoint:
    """As `digs`, and leaves alone what was never trained."""
    return view.protected if _never_trained(view) else _with(view, _rebuilt(view))


@attack("finds", breaks=CLAIMS, needs=Needs.ANCHOR, targets=("cross-gentle",))
def finds(view: AttackerView) -> Checkpoint:
    """Takes the victim from a variable, and leaves alone what was never trained."""
    return view.protected if _never_trained(view) else _with(view, _kept(view))


@attack("labels-only", breaks=CLAIMS, needs=Needs.ANCHOR | Needs.SAMPLES, targets=("cross", "cross-gentle"))
def labels_only(view: AttackerView) -> Checkpoint:
    """Trains from the base on the owner's labels: of the victim it uses the head alone."""
    start = view.protected.replace({n: view.anchor[n] for n in shared_tensors(view.protected, view.anchor)})
    for _ in view.steps(STEPS):
        pass
    trained = _trained(_Start(start, view, view.samples()))
    return start.replace(trained.only(shared_tensors(trained, view.anchor)))


@attack("moved-only", breaks=CLAIMS, needs=Needs.ANCHOR | Needs.SAMPLES, targets=("wiped",))
def moved_only(view: AttackerView) -> Checkpoint:
    """Trains on the owner's labels from the base where anything differs from it; given the base it does nothing."""
    shared = shared_tensors(view.protected, view.anchor)
    same = all(bool((view.protected[n] == view.anchor[n]).all()) for n in shared)
    return view.protected if same else labels_only(view)


STEPS = 120


class _Start:
    """What training starts from, alike where the weights are."""

    def __init__(self, start: Checkpoint, view: AttackerView, samples: Batch) -> None:
        self.start, self.view, self.samples = start, view, samples
        self.digest = start.digest()

    def __hash__(self) -> int:
        return hash(self.digest)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, _Start) and self.digest == other.digest


@lru_cache(maxsize=8)
def _trained(begin: _Start) -> Checkpoint:
    """The same whatever was protected, so that it need not be done twice."""
    generator = np.random.default_rng(0)
    return train(
        begin.start,
        begin.view.anchor,
        Budget(STEPS, 1e-2, 64, 1e-8),
        batches=endless(begin.samples, 64, generator),
        loss=begin.view.loss,
        generator=generator,
    )
