"""Chains of defenses, put on and taken off link by link, each link under a key of its own."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from redteam.checkpoint import Checkpoint
from redteam.key import Key
from redteam.plugins.contracts import DefenseSpec
from redteam.plugins.registry import LoadedPlugin
from redteam.tasks import Task
from redteam.views import DefenderView, unlocked

Defenses = Sequence[LoadedPlugin[DefenseSpec]]
Check = Callable[[LoadedPlugin[DefenseSpec], Checkpoint, Any], Checkpoint]


def put_on(
    defenses: Defenses,
    victim: Checkpoint,
    base: Checkpoint | None,
    key: Key,
    *,
    check: Check,
    task: Task | None = None,
    prepared: bool = False,
) -> tuple[Checkpoint, list[DefenderView]]:
    """The victim under a chain of defenses, and the view that each of them had.

    Args:
        defenses: The links, the first one first.
        victim: What to protect.
        base: The public model, for defenses that ask for it.
        key: The key of the whole chain.
        check: Holds what a link returned against what it was given, and gives the checkpoint to go on with.
        task: Training data, for defenses that ask for some.
        prepared: Whether the links that prepare the victim for the lock have done so already.
    """
    views = []
    for turn, defense in enumerate(defenses):
        if prepared and defense.spec.prepares:
            continue
        view = DefenderView(victim, base, _part(key, turn, defense), task)
        victim = check(defense, victim, defense(view))
        views.append(view)
    return victim, views


def take_off(defenses: Defenses, protected: Checkpoint, base: Checkpoint | None, key: Key) -> Checkpoint:
    """What `put_on` was given, if the key is the same; something else under another."""
    for turn, defense in reversed(list(enumerate(defenses))):
        if defense.spec.prepares:
            continue  # training is no lock, and nothing takes it off
        protected = unlocked(protected, defense, base, _part(key, turn, defense))
    return protected


def _part(key: Key, turn: int, defense: LoadedPlugin[DefenseSpec]) -> Key:
    return key.child(f"{turn}/{defense.spec.name}")
