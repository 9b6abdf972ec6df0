"""Figures: what one attack, or a gauntlet, took from one defense with one merger, over all seeds and keys."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from redteam.evaluation import results as r
from redteam.evaluation.gauntlet import chosen, gone_through
from redteam.evaluation.graph import Case, Cell
from redteam.evaluation.judge import Judge
from redteam.evaluation.price import UNITS
from redteam.evaluation.statistics import Vector
from redteam.evaluation.verdict import Candidate

Where = tuple[str, str, str, str, str]
"""Scenario, defense, threat model, attack, merger."""

Place = tuple[str, str, str]
"""Scenario, defense, threat model: what a verdict speaks of."""


class Figures:
    """All of a run.

    Args:
        judge: Its scores.
    """

    def __init__(self, judge: Judge) -> None:
        self.judge = judge
        self.pairings: dict[Where, list[Cell]] = {}
        for cell in judge.graph.cells:
            if cell.group == "cell":
                where = (cell.scenario, cell.defense, cell.threat, cell.attack, cell.merger)
                self.pairings.setdefault(where, []).append(cell)
        self.spared = Counter((c.scenario, c.defense, c.threat, c.attack, c.merger) for c in judge.graph.spared)
        self.gauntlets: dict[Where, list[Case]] = {}
        for case in judge.graph.cases:
            where = (case.scenario, case.defense, case.threat, case.gauntlet, case.merger)
            self.gauntlets.setdefault(where, []).append(case)
        self._made = {where: self._figure(where, cells) for where, cells in self.pairings.items()}
        self._ensembles = {where: self._ensemble(where, cases) for where, cases in self.gauntlets.items()}

    def figures(self) -> Iterator[r.Figure]:
        """One for each attack and gauntlet, gauntlets first."""
        yield from self._ensembles.values()
        yield from self._made.values()

    def candidates(self, place: Place) -> list[Candidate]:
        """What a verdict chooses from: attacks that ran on everything, no attack among them, and gauntlets.

        A member that was spared somewhere has met the stubborn cases alone, and stands for nothing by itself. Of a
        gauntlet there is the choice by what the attacker sees, the same among members without the victim's data, and
        the best on the scoring data, which nobody can see.
        """
        found = []
        for where, cases in self.gauntlets.items():
            if where[:3] == place and self._ensembles[where].status == "ok":
                found.append(_candidate(self._ensembles[where]))
                found += [_candidate(figure) for figure in self._free(where, cases)]
                best = [cell for case in cases if (cell := self._best(self._members(case))) is not None]
                found.append(replace(_candidate(self._summed(where, cases, best)), seen=-np.inf))
        for where, figure in self._made.items():
            whole = figure.status == "ok" and not self.spared[where]
            if where[:3] == place and figure.role in ("naive", "recovery") and whole:
                found.append(_candidate(figure))
        return found

    def _free(self, where: Where, cases: Sequence[Case]) -> Iterator[r.Figure]:
        free = {case: [cell for cell in self._members(case) if not cell.unused] for case in cases}
        picked = [cell for members in free.values() if (cell := chosen(self.judge, members)) is not None]
        if len(picked) == len(cases) and any(len(self._members(case)) > len(free[case]) for case in cases):
            yield self._summed(where, cases, picked)

    def _best(self, members: Sequence[Cell]) -> Cell | None:
        scored = [(float(counted[0]), cell) for cell in members if (counted := self.judge.counted(cell)) is not None]
        return max(scored, key=lambda pair: pair[0])[1] if scored else None

    def _members(self, case: Case) -> tuple[Cell, ...]:
        """Those that ran before the case was closed; what somebody else asked for beyond them is not the gauntlet's."""
        return gone_through(self.judge, self.judge.graph.cases[case])

    def _ensemble(self, where: Where, cases: Sequence[Case]) -> r.Figure:
        """Of every case the member that an attacker would choose."""
        picked = [chosen(self.judge, self._members(case)) for case in cases]
        if any(cell is None for cell in picked):
            failed = [
                found for case in cases for c in self._members(case) if (found := self.judge.status(c))[0] != "ok"
            ]
            status, reason = failed[0] if failed else ("skipped", "the merges it is measured against are missing")
            return r.Figure(**_named(where, "recovery"), status=status, reason=reason)
        return self._summed(where, cases, [cell for cell in picked if cell is not None])

    def _summed(self, where: Where, cases: Sequence[Case], picked: Sequence[Cell]) -> r.Figure:
        """What was picked, at the cost of everything that ran before it was known."""
        spent = [self._spent(self._members(case)) for case in cases]
        return self._figure(where, picked).model_copy(
            update={
                **{unit: _mean([cost[unit] for cost in spent]) for unit in UNITS},
                "role": "recovery",
                "by": dict(Counter(cell.attack for cell in picked).most_common()),
            }
        )

    def _spent(self, members: Sequence[Cell]) -> dict[str, float | None]:
        costs = [record["cost"] for cell in members if (record := self.judge.result(cell.recovered)) is not None]
        spent: dict[str, float | None] = {}
        for unit in UNITS:
            known = [cost[unit] for cost in costs if cost.get(unit) is not None]
            add = sum if unit in ("seconds", "steps") else max
            spent[unit] = add(known) if known else None
        return spent

    def _figure(self, where: Where, cells: Sequence[Cell]) -> r.Figure:
        judge, role = self.judge, cells[0].role
        named = _named(where, role)
        failed = [found for cell in cells if (found := judge.status(cell))[0] != "ok"]
        if not failed and any(judge.theft(cell) is None for cell in cells):
            failed = [("skipped", "the merges it is measured against could not be computed")]
        if failed:
            return r.Figure(**named, status=failed[0][0], reason=failed[0][1])
        worst: Callable[..., Any] = min if role in ("ceiling", "anew") else max
        costs = [record["cost"] for cell in cells if (record := judge.result(cell.recovered)) is not None]
        seen = [value for cell in cells if (value := judge.seen(cell)) is not None]
        residuals: dict[str, Any] = self._residuals(cells)
        spent: dict[str, Any] = {unit: _mean([cost.get(unit) for cost in costs]) for unit in UNITS}
        data = any(cell.unused for cell in cells)

        def advantage(cell: Cell) -> Vector | None:
            """Of what uses no data, everything is beyond what data alone would buy."""
            return judge.advantage(cell) if cell.unused else judge.theft(cell)

        return r.Figure(
            **named,
            status="ok",
            theft=judge.interval(cells, judge.theft, worst=worst),
            counted=judge.interval(cells, judge.counted, worst=worst),
            advantage=judge.interval(cells, advantage, worst=worst, lowest=-1.0) if data else None,
            **residuals,
            seen=float(np.mean(seen)) if seen else None,
            **spent,
            cells=len(cells),
            spared=self.spared[where],
        )

    def _residuals(self, cells: Sequence[Cell]) -> dict[str, float | None]:
        by_seed: dict[int, list[float]] = {}
        for cell in cells:
            record = self.judge.result(cell.recovered)
            if record is not None and record["residual"] is not None:
                by_seed.setdefault(cell.seed, []).append(record["residual"])
        several = [values for values in by_seed.values() if len(values) > 1]
        return {
            "residual": float(np.mean([max(values) for values in by_seed.values()])) if by_seed else None,
            "key_spread": max(max(values) - min(values) for values in several) if several else None,
        }


def _named(where: Where, role: str) -> dict[str, Any]:
    return dict(zip(("scenario", "defense", "threat", "attack", "merger"), where, strict=True)) | {"role": role}


def _candidate(figure: r.Figure) -> Candidate:
    assert figure.theft is not None
    assert figure.counted is not None
    return Candidate(
        figure.attack,
        figure.merger,
        figure.theft,
        figure.counted,
        -np.inf if figure.seen is None else figure.seen,
        {unit: getattr(figure, unit) for unit in UNITS},
        figure.advantage,
        figure.by,
    )


def _mean(values: Sequence[float | None]) -> float | None:
    known = [value for value in values if value is not None]
    return float(np.mean(known)) if known else None
