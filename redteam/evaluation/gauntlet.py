"""Gauntlets: standard ensembles of attacks, named and versioned, so that the figures of two teams compare.

A package ships one as a TOML file (`redteam.plugins.shipped`) that lists attacks, the cheapest first. A case is one
lock under one key and seed, merged with one merger, under one threat model. On each, the members that the threat model
grants run in this order, and later ones only on what is still locked: a case is closed as soon as a member has taken
nearly everything. That spares computing and changes no verdict towards safety: whatever is closed is broken.
"""

from __future__ import annotations

import tomllib
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from redteam.errors import BadPlan
from redteam.evaluation.thresholds import THRESHOLDS
from redteam.plugins.shipped import shipped, shipped_file

if TYPE_CHECKING:
    from collections.abc import Container, Iterable, Sequence

    from redteam.evaluation.pairings import Case, Pairing
    from redteam.evaluation.scoring import Table


@dataclass(frozen=True)
class Gauntlet:
    """A file's content.

    Attributes:
        name: With its version, for example `"gauntlet-1"`.
        attacks: References, `a+b` for chains, in the order in which they run.
    """

    name: str
    attacks: tuple[str, ...]

    @classmethod
    def read(cls, name: str, file: Path | None = None) -> Gauntlet:
        """The gauntlet that a package ships under this name.

        Args:
            name: Its name.
            file: Where it is, if that is known already.

        Raises:
            BadPlan: If the file holds something else.
            UnknownName: If no package ships one of that name.
        """
        file = file or shipped_file("gauntlet", name)
        try:
            held = tomllib.loads(file.read_text(encoding="utf-8"))
        except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
            raise BadPlan(f"The gauntlet {file} is not TOML ({error}).") from None
        attacks = held.pop("attacks", None)
        if held or not isinstance(attacks, list) or not attacks or not all(isinstance(one, str) for one in attacks):
            raise BadPlan(f"The gauntlet {file} must hold 'attacks', a list of names, and nothing else.")
        return cls(name, tuple(attacks))


def is_gauntlet(text: str) -> bool:
    """Whether a package ships a gauntlet of this name."""
    return text in {one.name for one in shipped("gauntlet")}


def closed(table: Table, members: Iterable[Pairing], excluded: Container[str]) -> bool:
    """Whether what was run so far of a case has taken nearly everything, so that nothing more needs to run.

    Args:
        table: All scores.
        members: Those that have ended.
        excluded: Attacks that count for nothing.
    """
    stolen = (table.counted(member) for member in members if member.attack not in excluded and table.judged(member))
    return any(counted is not None and bool(counted[0] >= THRESHOLDS.priced) for counted in stolen)


def next_members(
    table: Table, case: Case, before: Sequence[Pairing], run: Container[Pairing], excluded: Container[str]
) -> list[Pairing]:
    """Whose turn it is: the first that has not run, once those before it have ended and left the case open.

    Merging without an attack at other lengths of the task vector costs so little that all of it runs at once.

    A case that could not be judged stays open: what an attack does not apply to, or fails on, others may break. Only a
    lock that could not be put on is nobody's turn.

    Args:
        table: All scores.
        case: The lock, and who runs on it in turn.
        before: What comes before all members: merging without an attack.
        run: Pairings that have been asked for.
        excluded: Attacks that count for nothing.
    """
    ended = list(before)
    if not all(table.ended(pairing) and table.record(pairing.steps.lock) is not None for pairing in before):
        return []
    for member in case.members:
        if closed(table, ended, excluded):
            return []
        if member not in run:
            return [member] if case.gauntlet else [m for m in case.members if m not in run]
        if not table.ended(member):
            return []
        ended.append(member)
    return []
