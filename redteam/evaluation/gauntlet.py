"""Gauntlets: standard ensembles of attacks, named and versioned, so that the figures of two teams compare.

A package ships one as a TOML file (`redteam.plugins.shipped`) that lists attacks, the cheapest first. A case is one
lock under one key and seed, merged with one merger, under one threat model. On each, the members that the threat model
grants run in this order, and later ones only on what is still locked: a case is closed as soon as the member that an
attacker would choose, by what they see of those run so far, has taken nearly everything. That spares computing and
changes no verdict towards safety: whatever is closed is broken.
"""

from __future__ import annotations

import math
import tomllib
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from redteam.errors import BadPlan
from redteam.evaluation.thresholds import THRESHOLDS
from redteam.plugins.shipped import shipped, shipped_file

if TYPE_CHECKING:
    from collections.abc import Sequence

    from redteam.evaluation.graph import Cell
    from redteam.evaluation.judge import Judge


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


def chosen(judge: Judge, members: Sequence[Cell]) -> Cell | None:
    """Of the members that have a result the one that an attacker would choose by what they see."""
    best, most = None, -math.inf
    for cell in members:
        seen = judge.seen(cell)
        if seen is not None and seen > most:
            best, most = cell, seen
    return best


def gone_through(judge: Judge, members: tuple[Cell, ...]) -> tuple[Cell, ...]:
    """The members up to the one that closed the case."""
    return next((members[:k] for k in range(1, len(members)) if closed(judge, members[:k])), members)


def closed(judge: Judge, members: Sequence[Cell]) -> bool:
    """Whether what was run so far of a case has taken nearly everything, so that nothing more needs to run."""
    best = chosen(judge, members)
    counted = None if best is None else judge.counted(best)
    return counted is not None and bool(counted[0] >= THRESHOLDS.priced)
