"""The lock × merger tables: which mergers a lock stops by itself, and which it stops still after all attacks."""

from __future__ import annotations

from dataclasses import dataclass

from redteam.evaluation.results import FELL_BEFORE, ByMerger, Results
from redteam_reports import wording

TOLD = (
    "Theft with every merger, without an attack → after all attacks that ran: which mergers a lock stops, and which "
    "walk around it. Where the unlocked victim adds too little to a merge (*gain*), or the victim's model by "
    "itself would count as theft, it says nothing and counts for no verdict. A dash: the lock had fallen before, so "
    "that this merger had no turn."
)


@dataclass(frozen=True)
class Square:
    """One defense under one merger.

    Attributes:
        before, after: Theft without an attack and after all of them, `–` where there is none.
        step: 0 to 10: how deep its colour is; `None` where theft says nothing.
        note: What is to be said of it; empty if nothing.
    """

    before: str
    after: str
    step: int | None
    note: str = ""

    @property
    def text(self) -> str:
        """In one cell of a table."""
        if self.before == self.after == "–":
            return self.note or "–"
        figures = f"{self.before} → {self.after}"
        return f"{figures} ({self.note})" if self.note else figures


@dataclass(frozen=True)
class Matrix:
    """All defenses under all mergers, on one scenario under one threat model.

    Attributes:
        rows: Defense → a square for each merger.
        gains: For each merger, what the unlocked victim adds to its merge.
    """

    scenario: str
    threat: str
    mergers: tuple[str, ...]
    rows: dict[str, tuple[Square, ...]]
    gains: tuple[str, ...]


def matrices(results: Results) -> list[Matrix]:
    """One for each scenario and threat model, in the order of the verdicts; none where a plan has one merger."""
    made = []
    for scenario, threat in dict.fromkeys((row.scenario, row.threat) for row in results.by_merger):
        here = [row for row in results.by_merger if (row.scenario, row.threat) == (scenario, threat)]
        mergers = tuple(dict.fromkeys(row.merger for row in here))
        found = {(row.defense, row.merger): row for row in here}
        rows = {
            defense: tuple(_square(found.get((defense, merger))) for merger in mergers)
            for defense in dict.fromkeys(row.defense for row in here)
        }
        gains = {row.merger: row.gain for row in here if row.gain is not None}
        made.append(
            Matrix(scenario, threat, mergers, rows, tuple(wording.interval(gains.get(merger)) for merger in mergers))
        )
    return made


def _square(row: ByMerger | None) -> Square:
    if row is None:
        return Square("–", "–", None)
    if row.worst is None:
        return Square("–", "–", None, "" if row.reason == FELL_BEFORE else row.reason)
    before, after = (wording.number(one.mean if one else None) for one in (row.naive, row.worst))
    if not row.telling:
        return Square(before, after, None, row.reason)
    return Square(before, after, round(10 * min(max(row.worst.mean, 0.0), 1.0)))
