"""Controls of attacks that must steal nothing, since nothing is there: floor, gone and the trivial attacker."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import ClassVar

from redteam.evaluation.controls.base import Check, Finding, by_seed, interval, on_nothing_locked, over_by_chance
from redteam.evaluation.design import Asked
from redteam.evaluation.pairings import Pairing
from redteam.evaluation.resolve import Pipeline
from redteam.evaluation.rows import ControlKind
from redteam.evaluation.scoring import Table
from redteam.evaluation.statistics import combine
from redteam.evaluation.thresholds import THRESHOLDS


class Floor(Check):
    """An attack without data on a victim that was never trained, under the defense: there is nothing to steal."""

    kind: ClassVar[ControlKind] = "floor"

    def pairings(self, asked: Asked, attack: Pipeline, table: Table) -> Iterator[Pairing]:
        """On a fresh victim under the first key."""
        return on_nothing_locked(
            self.kind,
            table,
            asked,
            attack,
            lambda layout: layout.defend(asked.defense, 0, fresh=True),
            label=f"{asked.defense.text} on a fresh victim",
            defense=asked.defense,
        )

    def find(self, table: Table, pairings: Sequence[Pairing]) -> Finding:
        """Held to the mean; whether that is chance is corrected for all of a verdict's floors together."""
        return _held_to_mean(table, pairings, THRESHOLDS.floor, "from a fresh victim ")


class Trivial(Check):
    """The base in the victim's place: a score that rewards it rewards throwing the victim away."""

    kind: ClassVar[ControlKind] = "trivial"

    def pairings(self, asked: Asked, attack: Pipeline, table: Table) -> Iterator[Pairing]:
        """Those that the plan has: whoever guesses a key is no trivial attacker but holds the victim."""
        yield from (p for p in asked.pairings if p.role == "trivial" and not p.code and p.attack == attack.text)

    def find(self, table: Table, pairings: Sequence[Pairing]) -> Finding:
        return _held_to_mean(table, pairings, THRESHOLDS.trivial, "")


class Gone(Check):
    """An attack on a victim drowned in noise: whoever takes half has seen what they should not have.

    With data, half beyond what the same data buy from the base: an attack may do less there than where it finds a
    victim, and what it is compared with would then say nothing.
    """

    kind: ClassVar[ControlKind] = "gone"

    def pairings(self, asked: Asked, attack: Pipeline, table: Table) -> Iterator[Pairing]:
        """One lock for each seed, whatever the defense."""
        return on_nothing_locked(
            self.kind,
            table,
            asked,
            attack,
            lambda layout: layout.drowned(),
            label="the victim drowned in noise",
            data=True,
        )

    def find(self, table: Table, pairings: Sequence[Pairing]) -> Finding:
        theft, limit = interval(table, pairings, table.counted), THRESHOLDS.stolen
        beyond = " beyond what its data alone buy" if any(p.data for p in pairings) else ""
        told = f"from a victim drowned in noise {pairings[0].attack} steals {theft}{beyond}; less than {limit}"
        return Finding(theft.mean < limit, theft.mean, limit, told)


class Harmless(Check):
    """An attack without data on a victim that nobody locked."""

    kind: ClassVar[ControlKind] = "harmless"

    def pairings(self, asked: Asked, attack: Pipeline, table: Table) -> Iterator[Pairing]:
        return on_nothing_locked(
            self.kind, table, asked, attack, lambda layout: layout.unlocked(), label="the unlocked victim"
        )

    def find(self, table: Table, pairings: Sequence[Pairing]) -> Finding:
        def harm(pairing: Pairing):  # type: ignore[no-untyped-def] # noqa: ANN202
            baselines, merge = table.baselines(pairing), table.record(pairing.steps.merge)
            return None if baselines is None or merge is None else baselines.harm(baselines.scores(merge))

        change, limit = combine(by_seed(pairings, harm, worst=min)), THRESHOLDS.harmless
        told = f"on an unlocked victim {pairings[0].attack} changes the merge by {change}; lower bound above {limit}"
        return Finding(change.low > limit, change.low, limit, told)


def _held_to_mean(table: Table, pairings: Sequence[Pairing], limit: float, where: str) -> Finding:
    theft = interval(table, pairings, table.theft)
    p = over_by_chance(by_seed(pairings, table.theft), limit) if theft.mean > limit else 1.0
    told = f"{where}{pairings[0].attack} steals {theft}; on average at most {limit}"
    return Finding(theft.mean <= limit, theft.mean, limit, told, p=p)
