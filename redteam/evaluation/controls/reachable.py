"""Controls of what can be reached at all: the weakened variant of a defense, and the ceiling."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import ClassVar

from redteam.evaluation.adversaries import targets
from redteam.evaluation.controls.base import Check, Finding, interval, on_every_seed
from redteam.evaluation.controls.gain import telling
from redteam.evaluation.design import Asked
from redteam.evaluation.layout import weakened
from redteam.evaluation.pairings import Pairing
from redteam.evaluation.resolve import Pipeline
from redteam.evaluation.rows import ControlKind
from redteam.evaluation.scoring import Table
from redteam.evaluation.thresholds import THRESHOLDS


class Weakened(Check):
    """The weakened variant that a defense ships, which every attack that was made for the defense must break."""

    kind: ClassVar[ControlKind] = "weakened"

    def pairings(self, asked: Asked, attack: Pipeline, table: Table) -> Iterator[Pairing]:
        weak = weakened(asked.defense)
        if weak is not None and attack.role == "recovery" and targets(attack, asked.defense):
            yield from on_every_seed(
                table,
                asked,
                attack,
                lambda layout: layout.defend(weak, 0),
                place=asked.place,
                defense=asked.defense,
                label=weak.text,
                reference=False,
                control=self.kind,
            )

    def find(self, table: Table, pairings: Sequence[Pairing]) -> Finding:
        """A variant that stops no merge is not there to be broken."""
        theft, limit = interval(table, pairings, table.counted), THRESHOLDS.stolen
        naive = interval(table, pairings, lambda pairing: table.theft(pairing, pairing.steps.naive))
        told = (
            f"{pairings[0].attack} steals {theft} from the weakened variant, no attack {naive.mean:.2f}; "
            f"lower bound at least {limit}, without attack less"
        )
        return Finding(theft.low >= limit > naive.mean, theft.low, limit, told)


class Ceiling(Check):
    """Whoever has everything: the key's holder, and an expert that is trained anew. If they fail, so does everybody."""

    kind: ClassVar[ControlKind] = "ceiling"

    def pairings(self, asked: Asked, attack: Pipeline, table: Table) -> Iterator[Pairing]:
        mergers = telling(table, asked)
        for p in asked.later:
            if p.attack == attack.text and p.merger in {merger.text for merger in mergers[p.seed]}:
                yield p

    def find(self, table: Table, pairings: Sequence[Pairing]) -> Finding:
        who, limit = "the key's holder gets {} back", THRESHOLDS.ceiling
        if pairings[0].role == "anew":
            who, limit = "an expert trained anew is worth {} in its place", THRESHOLDS.anew
        theft = interval(table, pairings, table.theft, worst=min)
        return Finding(theft.mean >= limit, theft.mean, limit, f"{who.format(theft)}; at least {limit}")
