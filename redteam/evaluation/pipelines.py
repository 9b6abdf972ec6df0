"""Pipelines of defenses, applied, opened and removed link by link, each link under a key of its own."""

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


def apply(
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
        part = _part(turn, defense)
        view = DefenderView(victim, base, key.child(part), task, part=part)
        victim = check(defense, victim, defense(view))
        views.append(view)
    return victim, views


def opened(defenses: Defenses, released: Checkpoint, views: Sequence[DefenderView]) -> Checkpoint:
    """What runs: the released model without its seals, which come last; the same model where nothing seals it.

    Args:
        defenses: The links, in the order in which they were put on.
        released: What `apply` returned, as it is stored.
        views: Those that `apply` returned: they hold what is kept inside, too, which no key gives back.
    """
    seals = sum(defense.spec.sealed for defense in defenses)
    for view in reversed(views[len(views) - seals :]):
        for lock in reversed(view.locks):
            released = lock.take_off(released)
    return released


def remove(
    defenses: Defenses,
    protected: Checkpoint,
    base: Checkpoint | None,
    key: Key,
    *,
    owner: Key | None = None,
    task: Task | None = None,
) -> Checkpoint:
    """What `apply` was given, if the key is the same; something else under another key.

    Args:
        defenses: The links, in the order in which they were put on.
        protected: What `apply` returned.
        base: The public model, for defenses that ask for it.
        key: Of the whole chain.
        owner: The key that the owner has, where that is known; any other is then a guess, and a link whose
            implementation fixes its seed only yields to the guess at that.
        task: Training data, for keyed defenses that train: they run again to say which locks they draw.
    """
    guessed = owner is not None and key != owner
    for turn, defense in reversed(list(enumerate(defenses))):
        if not defense.spec.keyed:
            continue  # training, for example, cannot be undone
        part = _part(turn, defense)
        protected = unlocked(protected, defense, base, key.child(part), part=part, guessed=guessed, task=task)
    return protected


def _part(turn: int, defense: LoadedPlugin[DefenseSpec]) -> str:
    return f"{turn}/{defense.spec.name}"
