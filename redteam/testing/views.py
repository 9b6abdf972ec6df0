"""The views that the contract suite shows to plugins, made in one place, and what can be noticed of their use."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import numpy as np

from redteam.checkpoint import Checkpoint, own_tensors
from redteam.key import Key
from redteam.plugins.contracts import MergerSpec, Needs
from redteam.symmetry import Group
from redteam.tasks import Batch, Classification, Scenario, Task
from redteam.testing.trial import exposed
from redteam.threat import DATA, ThreatModel
from redteam.views import AttackerView, DefenderView, MergerView, Oracle, unlocked

LABELS = 16
"""How many labelled samples of the victim's task an attack is granted that declares that it needs some."""

KEY = Key.derive(seed=0, index=0, name="contract suite")
OTHER_KEY = Key.derive(seed=0, index=1, name="contract suite")


@dataclass(frozen=True, eq=False)
class Stand:
    """What an attack is tried on: a scenario, and a lock on its victim.

    Attributes:
        scenario: A toy.
        locks: Kinds of sites with the group that each is locked with, in order; none leaves the victim as it is.
    """

    scenario: Scenario
    locks: tuple[tuple[str, Group], ...] = ()

    @property
    def victim(self) -> Checkpoint:
        """The expert that is protected."""
        return self.scenario.experts[self.scenario.victim]

    def defend(self, view: DefenderView) -> Checkpoint:
        """The defense that puts the locks on."""
        checkpoint = view.victim
        for kind, group in self.locks:
            checkpoint = view.lock((kind,), group, checkpoint=checkpoint)
        return checkpoint

    def protected(self, key: Key = KEY, *, task: str = "") -> Checkpoint:
        """The victim, or the expert of another task, as it is published under a key, in memory; computed once."""
        return _protected(self, key, task or self.scenario.victim)


@lru_cache(maxsize=64)
def _protected(stand: Stand, key: Key, task: str) -> Checkpoint:
    locked = stand.defend(DefenderView(stand.scenario.experts[task], stand.scenario.base, key))
    return Checkpoint.of(dict(locked.items()), locked.config)


class Counted(Classification):
    """A task that counts the labelled samples that it hands out, to whoever asks."""

    drawn: int = 0

    @classmethod
    def of(cls, task: Task) -> Counted:
        """The same task, counting from 0."""
        assert isinstance(task, Classification)
        return cls(task.name, task.chance, task.inputs, task.labels)

    def batches(self, split: Any, size: int, generator: np.random.Generator) -> Iterator[Batch]:
        for batch in super().batches(split, size, generator):
            object.__setattr__(self, "drawn", max(self.drawn, len(batch[1])))
            yield batch


def attacker_view(stand: Stand, protected: Checkpoint, needs: Needs) -> tuple[AttackerView, dict[str, Any]]:
    """A view that grants exactly what an attack declares, and what it was made of.

    What is not declared isn't there at all, also behind the view's back.
    """
    scenario = stand.scenario
    copies: dict[str, Any] = {"the protected model": exposed(protected)}
    companions: dict[str, Checkpoint] = {}
    releases: list[Checkpoint] = []
    siblings: dict[str, Checkpoint] = {}
    if Needs.ANCHOR in needs:
        copies["the anchor"] = exposed(scenario.base)
    if Needs.COMPANIONS in needs:
        companions = {name: exposed(scenario.experts[name]) for name in scenario.companions}
        copies |= {f"the companion {name!r}": expert for name, expert in companions.items()}
        copies |= {f"the data of {name!r}": scenario.tasks[name] for name in companions}
    if Needs.RELEASES in needs:
        releases = [exposed(stand.protected(OTHER_KEY))]
        copies["the other release"] = releases[0]
    if Needs.SIBLINGS in needs:
        siblings = {name: exposed(stand.protected(task=name)) for name in scenario.companions[:1]}
        copies |= {f"the sibling {name!r}": expert for name, expert in siblings.items()}
    if needs & DATA:
        copies["the victim's data"] = Counted.of(scenario.tasks[scenario.victim])
    oracle = None
    if Needs.OUTPUTS in needs:
        oracle, known = Oracle(protected), scenario.dressed(scenario.base, scenario.victim)
        copies["the protected model"] = exposed(known)
    code = Needs.CODE in needs
    view = AttackerView(
        copies["the protected model"],
        ThreatModel(
            "what is declared",
            needs,
            "Exactly what the attack declares that it needs.",
            "with what it declares",
            labels=LABELS,
        ),
        KEY.child("attack"),
        needs=needs,
        _anchor=copies.get("the anchor"),
        _companions=companions,
        _own={name: scenario.tasks[name] for name in companions},
        _key=KEY if Needs.KEY in needs else None,
        _unlock=(lambda given, key: unlocked(given, stand.defend, scenario.base, key)) if code else None,
        _releases=releases,
        _siblings=siblings,
        _task=copies.get("the victim's data"),
        _owner=KEY.child("owner") if needs & DATA else None,
        _oracle=oracle,
    )
    return view, copies


def defender_view(
    scenario: Scenario, key: Key, *, victim: Checkpoint | None = None, data: bool = True
) -> tuple[DefenderView, dict[str, Any]]:
    """A view with everything that a defense can ask for, and what it was made of."""
    task = scenario.tasks[scenario.victim]
    victim = scenario.experts[scenario.victim] if victim is None else victim
    copies: dict[str, Any] = {"the victim": exposed(victim), "the base": exposed(scenario.base)}
    view = DefenderView(copies["the victim"], copies["the base"], key, task if data else None)
    return view, {**copies, "the training data": task}


def merger_view(
    scenario: Scenario, order: Sequence[str], *, spec: MergerSpec, change: Callable[[str, Checkpoint], Checkpoint]
) -> tuple[MergerView, dict[str, Any]]:
    """A view of the experts in some order, and what it was made of.

    Args:
        scenario: A toy.
        order: Names of experts.
        spec: What the merger declares.
        change: What is done to each expert first, by its name.
    """
    experts = {name: exposed(change(name, scenario.experts[name])) for name in order}
    base = exposed(scenario.base)
    view = MergerView(
        experts,
        base,
        KEY.child("merge"),
        spec.needs_base,
        spec.needs,
        _tasks=scenario.tasks,
        _victim=scenario.victim,
        _owner=KEY.child("owner"),
    )
    return view, {"the base": base, **{f"the expert {name!r}": expert for name, expert in experts.items()}}


def alone(expert: Checkpoint, base: Checkpoint) -> Checkpoint:
    """An expert that has learned nothing: the base under the expert's own head."""
    return base.replace({name: expert[name] for name in own_tensors(expert, base)})


def unheard_of(checkpoint: Checkpoint) -> Checkpoint:
    """The same weights with a config that names no network that anybody knows."""
    return Checkpoint.of(dict(checkpoint.items()), {"model_type": "unheard-of"})
