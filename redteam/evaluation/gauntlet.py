"""Gauntlets: standard ensembles of attacks or of mergers, named and versioned, so that figures of two teams compare.

A package ships one as a TOML file (`redteam.plugins.shipped`) that lists attacks or mergers, the cheapest first. A case
is one lock under one key and seed, merged with one merger, under one threat model. On each, the attacks that the threat
model grants run in this order, and later ones only on what is still locked: a case is closed as soon as a member has
taken nearly everything. Mergers of a gauntlet take turns likewise: what no attack has opened under one of them is
merged with the next, without attack and after each. That spares computing and changes no verdict towards safety:
whatever is closed is broken.
"""

from __future__ import annotations

import tomllib
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Literal, get_args

from redteam.errors import BadPlan
from redteam.evaluation.thresholds import THRESHOLDS
from redteam.plugins.shipped import shipped, shipped_file

if TYPE_CHECKING:
    from collections.abc import Container, Iterable, Sequence

    from redteam.evaluation.pairings import Case, Pairing
    from redteam.evaluation.scoring import Table


Kind = Literal["attacks", "mergers"]


@dataclass(frozen=True)
class Gauntlet:
    """A file's content.

    Attributes:
        name: With its version, for example `"gauntlet-1"`.
        kind: What its members are.
        members: References, `a+b` for chains of attacks, in the order in which they run.
    """

    name: str
    kind: Kind
    members: tuple[str, ...]

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
        for kind in get_args(Kind):
            members = held.get(kind)
            if len(held) == 1 and isinstance(members, list) and members and all(isinstance(m, str) for m in members):
                return cls(name, kind, tuple(members))
        raise BadPlan(f"The gauntlet {file} must hold 'attacks' or 'mergers', a list of names, and nothing else.")


def is_gauntlet(text: str, kind: Kind) -> bool:
    """Whether a package ships a gauntlet of this name, of attacks or of mergers.

    Raises:
        BadPlan: If it is one of the other kind.
    """
    if text not in {one.name for one in shipped("gauntlet")}:
        return False
    found = Gauntlet.read(text)
    if found.kind != kind:
        raise BadPlan(f"The gauntlet {text!r} holds {found.kind}; name it among the {found.kind} of the plan.")
    return True


def closed(
    table: Table,
    members: Iterable[Pairing],
    excluded: Container[str],
    left_out: Container[str] = (),
    yardsticks: Container[str] = (),
) -> bool:
    """Whether what was run so far of a case has taken nearly everything, so that nothing more needs to run.

    Args:
        table: All scores.
        members: Those that have ended.
        excluded: Attacks that count for nothing.
        left_out: Mergers that count for nothing.
        yardsticks: Mergers that everything is merged with.
    """
    counting = (
        m for m in members if not m.whole and m.attack not in excluded and m.merger not in left_out and table.judged(m)
    )
    stolen = (table.counted(member) for member in counting if tells(table, member, yardsticks))
    return any(counted is not None and bool(counted[0] >= THRESHOLDS.priced) for counted in stolen)


def tells(table: Table, pairing: Pairing, yardsticks: Container[str], *, perhaps: bool = False) -> bool:
    """Whether theft under the merger of a pairing means anything on its seed; see `controls.gain.left_out`.

    Args:
        table: All scores.
        pairing: Its merger and seed; nothing of it has to have ended.
        yardsticks: Mergers that everything is merged with.
        perhaps: Whether it is enough that it may.
    """
    baselines = table.baselines(pairing)
    if baselines is None:
        return False
    enough = (baselines.gained.high if perhaps else baselines.gained.low) >= THRESHOLDS.gain
    return enough and (pairing.merger in yardsticks or bool(baselines.copied[0] < THRESHOLDS.stolen))


def next_members(
    table: Table,
    case: Case,
    before: Sequence[Pairing],
    run: Container[Pairing],
    excluded: Container[str],
    left_out: Container[str] = (),
    yardsticks: Container[str] = (),
) -> list[Pairing]:
    """Whose turn it is: the first group that has not run, once those before it have ended and left the case open.

    A case that could not be judged stays open: what an attack does not apply to, or fails on, others may break. Only a
    lock that could not be put on is nobody's turn, nor attacks under a merger that gains nothing.

    Args:
        table: All scores.
        case: The lock, and who runs on it in turn.
        before: What comes before all members: merging without an attack, or all that ran under mergers before.
        run: Pairings that have been asked for.
        excluded: Attacks that count for nothing.
        left_out: Mergers that count for nothing.
        yardsticks: Mergers that everything is merged with.
    """
    ended = list(before)
    if not all(table.ended(pairing) and table.record(pairing.steps.lock) is not None for pairing in before):
        return []
    for group in case.groups:
        if closed(table, ended, excluded, left_out, yardsticks):
            return []
        attacked = group[0].role != "naive"
        if attacked and not case.merger and not tells(table, group[0], yardsticks, perhaps=True):
            continue
        new = [member for member in group if member not in run]
        if new:
            return new
        if not all(map(table.ended, group)):
            return []
        ended += group
    return []
