"""How far one place is: which pairings it needs next, until its verdict rests on all that it has to rest on."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING

from redteam.evaluation import aggregate
from redteam.evaluation.controls.gain import left_out
from redteam.evaluation.controls.sheet import Sheet
from redteam.evaluation.gauntlet import next_members
from redteam.evaluation.verdict import Decision, Evidence, decide, excluded
from redteam.evaluation.whole import whole_merges

if TYPE_CHECKING:
    from redteam.evaluation.design import Asked
    from redteam.evaluation.pairings import Pairing
    from redteam.evaluation.resolve import Pipeline
    from redteam.evaluation.rows import Control, ControlKind, Figure, Subject, WholeMerge
    from redteam.evaluation.scoring import Table

_WHEREVER: tuple[ControlKind, ...] = ("planted", "harmless", "gone")
_HERE: tuple[ControlKind, ...] = ("floor", "extent", "weakened")


class Progress:
    """One place of a run.

    Args:
        asked: What the plan asks of it.
        attacks: Text → attack, of all that the plan has.
        everything: Whether every control is computed, whatever the verdict rests on.
    """

    def __init__(self, asked: Asked, attacks: Mapping[str, Pipeline], *, everything: bool) -> None:
        self.asked, self.everything = asked, everything
        self.sheet = Sheet(asked, attacks)
        self.run: dict[Pairing, None] = {}
        self.controls: dict[Pairing, None] = {}
        self.decision: Decision | None = None

    @property
    def wanted(self) -> tuple[Pairing, ...]:
        """Everything that was asked for so far."""
        return (*self.run, *self.controls)

    @property
    def beside(self) -> str:
        """What is shown beside the verdict, in words."""
        return f"what its answers alone give away of {self.asked.place.defense}"

    def more(self, table: Table, *, idle: bool) -> tuple[list[Pairing], str]:
        """What to compute next, and why; nothing while there is something to wait for, or once the verdict is known.

        Args:
            table: All scores.
            idle: Whether everything that it asked for has ended.
        """
        if not self.run:
            first = [*self.asked.pairings, *(self.asked.later if self.everything else ())]
            return self._entered(first), f"attacks on {self.asked.place.defense}"
        more = self._entered(self.sheet.further(table), control=True)
        if more:
            return more, f"controls of {self.asked.place.defense}: merges of what the weights leave open"
        rows = self.sheet.rows(table)
        out = excluded(rows)
        turns = self._turns(table, out, idle=idle)
        if turns:
            names = dict.fromkeys(pairing.attack if pairing.role == "recovery" else "no attack" for pairing in turns)
            return self._entered(turns), f"{self.asked.place.defense} is still locked: {', '.join(names)}"
        if not idle:
            return [], ""
        if self.everything:
            controls = self._controlled(self._all_controls(), table)
            if controls:
                return controls, f"controls of {self.asked.place.defense}"
        while True:
            self.decision = decide(self.evidence(table, self.sheet.rows(table)))
            controls = self._controlled(self.decision.wanted, table)
            list(self.sheet.further(table))  # of controls that compare nothing new
            if controls:
                return controls, self._why(self.decision)
            if not self.decision.wanted:
                return self._entered(self.asked.beside), self.beside

    def evidence(self, table: Table, rows: Iterable[Control]) -> Evidence:
        """All rows that the verdict rests on, as far as they are known."""
        rows = tuple(rows)
        return Evidence(self.subject(table), self.figures(table, excluded(rows)), tuple(enumerate(rows)))

    def subject(self, table: Table) -> Subject:
        """What is known of the place beside what was stolen."""
        return aggregate.subject(table, self.asked, list(self.run), self.sheet)

    def figures(self, table: Table, out: frozenset[str]) -> tuple[Figure, ...]:
        """What was stolen, with some attacks that count for nothing."""
        gone = left_out(table, self.asked)
        return aggregate.figures(table, self.asked, self.run, excluded=out, left_out=gone)

    def whole(self, table: Table, out: frozenset[str]) -> tuple[WholeMerge, ...]:
        """What mergers that keep every expert whole make of it, with some attacks that count for nothing."""
        return tuple(whole_merges(table, self.asked.place, self.run, excluded=out))

    def _turns(self, table: Table, out: frozenset[str], *, idle: bool) -> list[Pairing]:
        """The next members of every ensemble that is open: mergers take turns once all that ran before has ended.

        Mergers that no verdict counts merge what has run under the others, and keep no ensemble open.
        Which mergers count for nothing is known once all seeds have ended; until then each seed speaks for itself, so
        that what runs does not depend on which seed ends first.
        """
        gone = left_out(table, self.asked) if idle else ()
        unattacked = {(p.seed, p.key, p.merger): p for p in self.asked.pairings if p.role == "naive"}
        ran = {(p.attack, p.seed, p.key) for p in self.run if not p.whole}
        turns = []
        busy = set()
        for case in self.asked.cases:
            if case.whole:
                turns += [m for m in case.members if m not in self.run and (m.attack, m.seed, m.key) in ran]
                continue
            where = (case.seed, case.key)
            if case.merger:
                before = [unattacked[(*where, case.merger)]]
            elif where in busy:
                continue
            else:
                mine = set(case.members)
                before = [p for p in self.run if (p.seed, p.key) == where and not p.whole and p not in mine]
            found = next_members(table, case, before, self.run, out, gone, self.asked.yardsticks)
            turns += found
            if found:
                busy.add(where)
        return turns

    def _all_controls(self) -> list[tuple[ControlKind, str]]:
        ran = dict.fromkeys(p.attack for p in self.run if p.role == "recovery")
        return [
            *(("trivial", p.attack) for p in self.asked.pairings if p.role == "trivial"),
            *((kind, attack) for attack in self.asked.attacks for kind in _WHEREVER),
            *((kind, attack) for attack in ran for kind in _HERE),
            *(("ceiling", p.attack) for p in self.asked.later),
        ]

    def _controlled(self, wanted: Iterable[tuple[ControlKind, str]], table: Table) -> list[Pairing]:
        pairings = list(self.sheet.want(wanted, table))
        later = [p for p in pairings if p.control is None]  # ceilings have figures, too
        return [*self._entered(later), *self._entered([p for p in pairings if p.control is not None], control=True)]

    def _entered(self, pairings: Iterable[Pairing], *, control: bool = False) -> list[Pairing]:
        held = self.controls if control else self.run
        new = [pairing for pairing in dict.fromkeys(pairings) if pairing not in held]
        held.update(dict.fromkeys(new))
        return new

    def _why(self, decision: Decision) -> str:
        if decision.word == "BROKEN":
            return f"controls of what breaks {self.asked.place.defense}"
        return f"controls of {self.asked.place.defense}: no attack broke it"
