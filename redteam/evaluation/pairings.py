"""What is compared: an attack on a lock, merged, and what it is measured against, as names of steps."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property

from redteam.evaluation.rows import ControlKind, Place


@dataclass(frozen=True)
class Steps:
    """Names of the steps behind a pairing.

    Attributes:
        lock, recovered, merge: The protected model, what the attack made of it, and the merge of that, where it counts.
        naive: The merge of the protected model as it is, where it counts.
        twin: The same attack on the unlocked victim, for planted locks.
        unused: The merge of the same attack from the base, for attacks with data of the victim's task.
        reference: The merge of the victim as it was prepared for the lock, where a pipeline trains it before it locks
            it: what the pairing is measured against in place of the merge with the unlocked victim.
    """

    lock: str
    recovered: str
    merge: str = ""
    naive: str = ""
    twin: str = ""
    unused: str = ""
    reference: str = ""

    def __iter__(self) -> Iterator[str]:
        return (name for name in vars(self).values() if name)


@dataclass(frozen=True)
class Pairing:
    """An attack on a lock, merged: what is compared. For a control, `place` may name no defense.

    Attributes:
        attack: The pipeline's text.
        role: The attack's role; `"guess"` for a trivial attacker who runs the defense's code, and so holds the victim.
        control: Which control it serves; `None` for what the plan asks for.
        site, group: Of planted locks, in words.
        code: Whether the attack runs the defense's own code.
        labels: Labelled samples of the victim's task that the threat model grants; `None` for all.
        whole: Whether its merger keeps every expert whole: it is shown, and counts for no verdict.
    """

    place: Place
    seed: int
    key: int
    attack: str
    role: str
    merger: str
    steps: Steps
    control: ControlKind | None = None
    site: str = ""
    group: str = ""
    code: bool = False
    labels: int | None = 0
    whole: bool = False

    @property
    def data(self) -> bool:
        """Whether the attack uses data of the victim's task."""
        return bool(self.steps.unused)


@dataclass(frozen=True)
class Ground:
    """What a scenario under one seed and merger is measured against: names of steps."""

    scenario: str
    seed: int
    merger: str
    alone: str
    tune: str
    without: str
    reference: str

    @property
    def where(self) -> tuple[str, int, str]:
        """Scenario, seed, merger."""
        return self.scenario, self.seed, self.merger

    @property
    def own(self) -> tuple[str, ...]:
        """What nobody but its merger needs."""
        return self.tune, self.without, self.reference

    def __iter__(self) -> Iterator[str]:
        return iter((self.alone, self.tune, self.without, self.reference))


@dataclass(frozen=True)
class Case:
    """One lock under one key and seed: what the members of an ensemble run on in turn.

    Attributes:
        gauntlet: Its name; empty for merging without an attack at several lengths of the task vector.
        merger: The one that all are merged with; empty where mergers take turns.
        groups: In the order in which they run; what is in one group runs at once.
    """

    gauntlet: str
    place: Place
    seed: int
    key: int
    merger: str
    groups: tuple[tuple[Pairing, ...], ...]

    @cached_property
    def whole(self) -> bool:
        """Whether its merger keeps every expert whole: it merges what has run under the others."""
        return any(member.whole for member in self.members)

    @cached_property
    def members(self) -> tuple[Pairing, ...]:
        """Everything that may run, in this order."""
        return tuple(member for group in self.groups for member in group)
