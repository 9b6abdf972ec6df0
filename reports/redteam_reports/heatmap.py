"""The attack × defense tables: one for each scenario, threat model and merger."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from redteam.evaluation.results import Figure, Results
from redteam.evaluation.statistics import Interval


@dataclass(frozen=True)
class Square:
    """One attack against one defense.

    Attributes:
        figure: `None` where it was not planned.
        worst: Whether it is the worst case on most seeds, which the verdict speaks of.
        seen: Whether it is what an attacker would choose by what they can see.
    """

    figure: Figure | None
    worst: bool = False
    seen: bool = False

    @property
    def counted(self) -> Interval | None:
        """What verdicts count."""
        return None if self.figure is None else self.figure.counted or self.figure.theft

    @property
    def step(self) -> int:
        """0 to 10: how deep its colour is."""
        value = self.counted
        return 0 if value is None else round(10 * min(max(value.mean, 0.0), 1.0))


@dataclass(frozen=True)
class Row:
    """One attack against all defenses."""

    attack: str
    role: str
    squares: tuple[Square, ...]


@dataclass(frozen=True)
class Heatmap:
    """All attacks against all defenses, merged with one merger."""

    merger: str
    defenses: tuple[str, ...]
    rows: tuple[Row, ...]
    figures: tuple[Figure, ...]

    @property
    def whole(self) -> bool:
        """Whether the merger keeps every expert whole, so that no verdict counts these figures."""
        return any(figure.whole for figure in self.figures)


@dataclass(frozen=True)
class Block:
    """The tables of one scenario under one threat model."""

    scenario: str
    threat: str
    tables: tuple[Heatmap, ...]


def blocks(results: Results) -> list[Block]:
    """All tables, in the order of the figures."""
    figures = [f for f in results.figures if f.choice == "attack"]
    places = dict.fromkeys((f.scenario, f.threat) for f in figures)
    worst = {(v.scenario, v.threat, v.defense): (v.attack, v.merger) for v in results.verdicts}
    seen = {(v.scenario, v.threat, v.defense): (v.seen.attack, v.seen.merger) for v in results.verdicts if v.seen}
    made = []
    for scenario, threat in places:
        here = [f for f in figures if (f.scenario, f.threat) == (scenario, threat)]
        marks = [{d: marked.get((scenario, threat, d)) for d in _names(here, "defense")} for marked in (worst, seen)]
        tables = [_table(m, [f for f in here if f.merger == m], *marks) for m in _names(here, "merger")]
        made.append(Block(scenario, threat, tuple(sorted(tables, key=lambda table: table.whole))))
    return made


@dataclass(frozen=True)
class Fit:
    """How close an attack came to the victim's weights, by defense, and the most that the key made of it."""

    attack: str
    values: tuple[float | None, ...]
    spread: float | None


@dataclass(frozen=True)
class Residuals:
    """How close the weights came, attack × defense."""

    title: str
    defenses: tuple[str, ...]
    rows: tuple[Fit, ...]


def residuals(results: Results) -> list[Residuals]:
    """One table for each scenario and threat model, of the first merger: residuals do not depend on it.

    Attacks that show the same figures under an earlier threat model of the scenario are left out.
    """
    told: set[tuple[str, str, tuple[float | None, ...]]] = set()
    made = []
    for block in blocks(results):
        rows = []
        for row in block.tables[0].rows:
            values = tuple(square.figure.residual if square.figure else None for square in row.squares)
            entry = (block.scenario, row.attack, values)
            if entry not in told and any(value is not None for value in values):
                spreads = [s.figure.key_spread for s in row.squares if s.figure and s.figure.key_spread is not None]
                rows.append(Fit(row.attack, values, max(spreads, default=None)))
            told.add(entry)
        if rows:
            title = f"Residual on {block.scenario} under {block.threat}"
            made.append(Residuals(title, block.tables[0].defenses, tuple(rows)))
    return made


def _table(merger: str, figures: Sequence[Figure], worst: dict[str, Any], seen: dict[str, Any]) -> Heatmap:
    defenses = _names(figures, "defense")
    by_place = {(f.attack, f.defense): f for f in figures}
    roles = {f.attack: f.role for f in figures}
    rows = []
    for attack in _names(figures, "attack"):
        mine = (attack, merger)
        squares = [Square(by_place.get((attack, d)), worst.get(d) == mine, seen.get(d) == mine) for d in defenses]
        rows.append(Row(attack, roles[attack], tuple(squares)))
    rows.sort(key=lambda row: row.role != "interface")  # the line that the others are measured from
    return Heatmap(merger, tuple(defenses), tuple(rows), tuple(figures))


def _names(figures: Sequence[Figure], what: str) -> list[str]:
    return list(dict.fromkeys(str(getattr(figure, what)) for figure in figures))
