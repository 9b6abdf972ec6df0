"""All kinds of control, and what came of those of one verdict."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field

from redteam.evaluation import rows as r
from redteam.evaluation.controls.base import Check, row
from redteam.evaluation.controls.nothing_to_steal import Floor, Gone, Harmless, Trivial
from redteam.evaluation.controls.planted import Extent, Planted
from redteam.evaluation.controls.reachable import Ceiling, Weakened
from redteam.evaluation.design import Asked
from redteam.evaluation.pairings import Pairing
from redteam.evaluation.resolve import Pipeline
from redteam.evaluation.rows import ControlKind, Place
from redteam.evaluation.scoring import Table
from redteam.evaluation.statistics import holm

CHECKS: Mapping[ControlKind, Check] = {
    check.kind: check for check in (Trivial(), Floor(), Gone(), Harmless(), Planted(), Extent(), Weakened(), Ceiling())
}
"""Kind → control, in the order in which reports list them."""

Wanted = tuple[ControlKind, str]
"""A kind of control, and the attack that it is of."""


@dataclass
class Sheet:
    """The controls of one place: which were asked for, and what came of them.

    Args:
        asked: The place.
        attacks: Text → attack, of all that the plan has, whatever their role.
    """

    asked: Asked
    attacks: Mapping[str, Pipeline]
    pairings: dict[Wanted, tuple[Pairing, ...]] = field(default_factory=dict)
    complete: set[Wanted] = field(default_factory=set)
    _rows: dict[Wanted, tuple[r.Control, ...]] = field(default_factory=dict)

    def want(self, wanted: Iterable[Wanted], table: Table) -> Iterator[Pairing]:
        """Lays out further controls, each once."""
        for kind, attack in wanted:
            if (kind, attack) not in self.pairings:
                found = tuple(CHECKS[kind].pairings(self.asked, self.attacks[attack], table))
                self.pairings[kind, attack] = found
                yield from found

    def further(self, table: Table) -> Iterator[Pairing]:
        """Lays out what controls need beside, once their first pairings have ended."""
        for one, pairings in self.pairings.items():
            if one not in self.complete and all(table.ended(pairing) for pairing in pairings):
                self.complete.add(one)
                more = tuple(CHECKS[one[0]].further(self.asked, self.attacks[one[1]], table, pairings))
                self.pairings[one] += more
                yield from more

    def tried(self, table: Table) -> tuple[Wanted, ...]:
        """Those whose pairings have all ended."""
        return tuple(one for one in self.pairings if self._has_ended(one, table))

    def rows(self, table: Table) -> tuple[r.Control, ...]:
        """One row for each control that has ended; floors and trivial attackers corrected together (Holm)."""
        return tuple(_corrected([row for one in self.tried(table) for row in self._rows[one]]))

    def _has_ended(self, one: Wanted, table: Table) -> bool:
        """Whether there is a row; it is made once, since what has ended does not change."""
        if one not in self._rows and one in self.complete and all(map(table.ended, self.pairings[one])):
            groups: dict[tuple[Place, str, str], list[Pairing]] = {}
            for pairing in self.pairings[one]:
                groups.setdefault((pairing.place, pairing.site, pairing.group), []).append(pairing)
            found = (row(CHECKS[one[0]], table, pairings) for pairings in groups.values())
            self._rows[one] = tuple(control for control in found if control is not None)
        return one in self._rows


def _corrected(rows: list[r.Control]) -> Iterator[r.Control]:
    """A mean over the limit fails where that is not by chance, given how many such controls the verdict has."""
    held = [control for control in rows if control.p is not None]
    corrected = dict(zip(map(id, held), holm([c.p for c in held if c.p is not None]), strict=True))
    for control in rows:
        if control.p is None:
            yield control
        else:
            p = corrected[id(control)]
            yield control.model_copy(update={"p": p, "passed": control.passed or p >= 0.05})
