"""Defenses whose released weights do not run alone, one of which keeps inside what no key gives back, and an attack."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from scipy.optimize import linear_sum_assignment

from redteam.checkpoint import Checkpoint, shared_tensors
from redteam.plugins.contracts import Needs, attack, defense
from redteam.symmetry import Permutation
from redteam.views import AttackerView, DefenderView


@dataclass(frozen=True)
class Inside:
    """Tensors that stay inside."""

    kept: Checkpoint
    shown: Checkpoint
    names: tuple[str, ...]

    def put_on(self, checkpoint: Checkpoint) -> Checkpoint:
        return checkpoint.replace(self.shown.only(self.names))

    def take_off(self, checkpoint: Checkpoint) -> Checkpoint:
        return checkpoint.replace(self.kept.only(self.names))


@defense("hollow", exact=True, keyed=False, sealed=True)
def hollow(view: DefenderView) -> Checkpoint:
    """Releases the base in the victim's place and keeps the victim inside."""
    lock = Inside(view.victim, view.base, tuple(shared_tensors(view.victim, view.base)))
    view.locks.append(lock)
    return lock.put_on(view.victim)


@defense("open-door", exact=True, keyed=True, sealed=True)
def open_door(view: DefenderView) -> Checkpoint:
    """Says that it seals, and only exchanges neurons."""
    return view.lock(("mlp",), Permutation())


@attack("columns", needs=Needs.ANCHOR, targets=("shadownet",))
def columns(view: AttackerView) -> Checkpoint:
    """Matches the columns of every matrix with the base's, and scales them alike."""
    found = {}
    for name, sealed in view.protected.items():
        if sealed.ndim != 2 or name not in view.anchor:
            continue
        base, ours = view.anchor[name].double(), sealed.double()
        unit = [torch.nn.functional.normalize(one, dim=0) for one in (base, ours)]
        _, order = linear_sum_assignment((unit[0].T @ unit[1]).numpy(), maximize=True)
        ours = ours[:, torch.from_numpy(order)]
        found[name] = (ours * ((base * ours).sum(0) / ours.square().sum(0))).to(sealed.dtype)
    return view.protected.replace(found)


@attack("asks", needs=Needs.COMPANIONS | Needs.OUTPUTS)
def asks(view: AttackerView) -> Checkpoint:
    """The base, with what the protected model answers written into a tensor."""
    task = next(iter(view.companions))
    told = float(view.answers(view.own_inputs(task, 8)).abs().mean())
    name = "vit.layernorm.weight"
    return view.protected.replace({name: view.protected[name] + told})
