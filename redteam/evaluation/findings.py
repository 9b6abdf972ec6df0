"""From scores to results: grounds, cells, figures, prices and verdicts, in the plan's order."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

from redteam.evaluation import results as r
from redteam.evaluation.controls import ControlSheet
from redteam.evaluation.graph import Cell
from redteam.evaluation.judge import Judge
from redteam.evaluation.price import UNITS, price
from redteam.evaluation.statistics import Interval, Vector, combine, unseen
from redteam.evaluation.verdict import Candidate, Evidence, decide


class Findings:
    """Everything that can be said of a run.

    Args:
        judge: Its scores.
        unprotected: Defenses that protect nothing on purpose, of which no gate speaks.
        adaptive: Defenses for which some attack of the plan was made.
    """

    def __init__(self, judge: Judge, *, unprotected: frozenset[str], adaptive: frozenset[str]) -> None:
        self.judge, self.unprotected, self.adaptive = judge, unprotected, adaptive
        self.sheet = ControlSheet(judge)
        self.pairings = [cell for cell in judge.graph.cells if cell.group == "cell"]
        self.groups: dict[tuple[str, str, str, str, str], list[Cell]] = {}
        for cell in self.pairings:
            where = (cell.scenario, cell.defense, cell.threat, cell.attack, cell.merger)
            self.groups.setdefault(where, []).append(cell)
        self.figures = tuple(self._figure(where, cells) for where, cells in self.groups.items())
        skipped = (r.Cell(victim="", key=0, role="recovery", merger="", **dict(e)) for e in judge.graph.skipped)
        self.cells = (*(self._cell(cell) for cell in self.pairings), *skipped)
        self.controls = self.sheet.controls
        self.grounds = self._grounds()
        self.verdicts = self._verdicts()

    @property
    def coverage(self) -> r.Coverage:
        """How many of the planned pairings have a result."""
        counts = Counter(cell.status for cell in self.cells)
        return r.Coverage(
            planned=len(self.cells),
            judged=counts["ok"],
            errors=counts["error"],
            timeouts=counts["timeout"],
            skipped=counts["skipped"],
        )

    def _grounds(self) -> tuple[r.Ground, ...]:
        made, judge = [], self.judge
        for where, ground in judge.grounds.items():
            yardstick, alone, tune = judge.yardsticks[where], judge.result(ground.alone), judge.result(ground.tune)
            if yardstick is None or alone is None or tune is None:
                continue
            made.append(
                r.Ground(
                    scenario=ground.scenario,
                    seed=ground.seed,
                    merger=ground.merger,
                    digest=alone["digest"],
                    settings=tune["settings"],
                    experts=_points(yardstick.expert),
                    base={t: float(yardstick.score(packed, t)[0]) for t, packed in alone["base"].items()},
                    without=_points(yardstick.without),
                    reference=_points(yardstick.reference),
                    gain=float(yardstick.gain[0]),
                )
            )
        return tuple(made)

    def _cell(self, cell: Cell) -> r.Cell:
        judge = self.judge
        yardstick, attacked, locked = judge.yardstick(cell), judge.scores(cell.merge), judge.scores(cell.naive)
        recovered, lock = judge.result(cell.recovered), judge.result(cell.lock)
        status, reason = judge.status(cell)
        scores: dict[str, Any] = {}
        cost: dict[str, float | None] = {}
        if yardstick and attacked and locked and recovered is not None and lock is not None:
            recovery, advantage, counted = (
                yardstick.recovery(attacked, locked),
                judge.advantage(cell),
                judge.counted(cell),
            )
            scores = {
                "theft": float(yardstick.theft(attacked)[0]),
                "counted": None if counted is None else float(counted[0]),
                "advantage": None if advantage is None else float(advantage[0]),
                "protection": 1.0 - float(yardstick.theft(locked)[0]),
                "recovery": None if recovery is None else float(recovery[0]),
                "residual": recovered["residual"],
                "change": recovered["change"],
                "fidelity": {dtype: float(vector[0]) for dtype, vector in judge.fidelity(cell).items()},
                "seen": judge.seen(cell),
            }
            merge = judge.result(cell.merge)
            assert merge is not None
            cost = {**recovered["cost"], "merge_seconds": merge["cost"]["seconds"]}
        return r.Cell(
            scenario=cell.scenario,
            seed=cell.seed,
            victim=yardstick.victim if yardstick else "",
            defense=cell.defense,
            key=cell.key,
            threat=cell.threat,
            attack=cell.attack,
            role=cell.role,
            merger=cell.merger,
            status=status,
            reason=reason,
            scores=scores,
            tasks=_points(attacked) if attacked and scores else {},
            cost=cost,
        )

    def _figure(self, where: tuple[str, str, str, str, str], cells: Sequence[Cell]) -> r.Figure:
        judge = self.judge
        scenario, defense, threat, attack, merger = where
        role = cells[0].role
        named: dict[str, Any] = {
            "scenario": scenario,
            "defense": defense,
            "threat": threat,
            "attack": attack,
            "role": role,
            "merger": merger,
        }
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
        data = bool(cells[0].unused)
        return r.Figure(
            **named,
            status="ok",
            theft=judge.interval(cells, judge.theft, worst=worst),
            counted=judge.interval(cells, judge.counted, worst=worst),
            advantage=judge.interval(cells, judge.advantage, worst=worst, lowest=-1.0) if data else None,
            **residuals,
            seen=float(np.mean(seen)) if seen else None,
            **spent,
            cells=len(cells),
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

    def _verdicts(self) -> tuple[r.Verdict, ...]:
        groups: dict[tuple[str, str, str], list[Cell]] = {}
        for cell in self.pairings:
            groups.setdefault((cell.scenario, cell.defense, cell.threat), []).append(cell)
        return tuple(self._verdict(where, cells) for where, cells in groups.items())

    def _verdict(self, where: tuple[str, str, str], cells: Sequence[Cell]) -> r.Verdict:
        scenario, defense, threat = where
        judged = [cell for cell in cells if cell.role in ("naive", "recovery")]
        mine = [f for f in self.figures if (f.scenario, f.defense, f.threat) == where]
        candidates = [_candidate(f) for f in mine if f.role in ("naive", "recovery") and f.status == "ok"]
        naive = [f.theft for f in mine if f.role == "naive" and f.theft is not None]
        fidelity, released = self._fidelity(judged)
        evidence = Evidence(
            gain=self.sheet.gain(scenario),
            failed=self.sheet.doubts(scenario, defense, threat),
            naive=max(naive, key=lambda theft: theft.mean, default=None),
            candidates=candidates,
            reliable=self.sheet.reliable(scenario, threat, {c.attack for c in judged if c.role == "recovery"}),
            ceiling=self.sheet.ceiling(scenario, defense, threat),
            targeted=self.sheet.targeted(scenario, defense, threat),
            missing=self._missing(cells) + self.sheet.unfinished(scenario, defense, threat),
            fidelity=fidelity.get(released),
            unproven=self.sheet.unproven(scenario, threat),
            adaptive=defense in self.adaptive,
        )
        decision, chosen, oracle = decide(evidence), evidence.judged, evidence.oracle
        breakers = [c for c in candidates if c.breaks]
        return r.Verdict(
            scenario=scenario,
            defense=defense,
            threat=threat,
            verdict=decision.word,
            reason=decision.reason,
            flags=decision.flags,
            attack=chosen.attack if chosen else "",
            merger=chosen.merger if chosen else "",
            theft=chosen.theft if chosen else None,
            counted=chosen.counted if chosen else None,
            advantage=chosen.advantage if chosen else None,
            protection=_rest(evidence.naive),
            fidelity=fidelity,
            oracle=r.Oracle(attack=oracle.attack, merger=oracle.merger, theft=oracle.theft) if oracle else None,
            broke_first=min(breakers, key=lambda c: c.cost["seconds"] or 0.0).attack if breakers else "",
            cost=dict(chosen.cost) if chosen else {},
            price=price(mine),
            keys=len({cell.key for cell in cells}),
            gated=defense not in self.unprotected,
        )

    def _fidelity(self, cells: Sequence[Cell]) -> tuple[dict[str, Interval], str]:
        """By dtype over all seeds, the worst key of each, and which of the dtypes the model is released in."""
        judge = self.judge
        released = next((lock["dtype"] for cell in cells if (lock := judge.result(cell.lock)) is not None), "")
        locks = {(cell.seed, cell.key, cell.lock): cell for cell in cells}
        figures = {cell: judge.fidelity(cell) for cell in locks.values()}
        yardsticks = {cell.seed: y for cell in figures if (y := judge.yardstick(cell)) is not None}
        items = sum(y.items for y in yardsticks.values())

        def stored_in(dtype: str) -> Callable[[Cell], Vector | None]:
            return lambda cell: figures[cell].get(dtype)

        dtypes = next((tuple(found) for found in figures.values() if found), ())
        made = {
            dtype: combine(
                judge.over_seeds(figures, stored_in(dtype), worst=min),
                lowest=0.0,
                resolution=unseen(items) if items else 0.0,
            )
            for dtype in dtypes
        }
        return made, released

    def _missing(self, cells: Sequence[Cell]) -> list[str]:
        told: dict[str, None] = {}
        for cell in cells:
            status, reason = self.judge.status(cell)
            if status != "ok" and not self.judge.inapplicable(cell):
                told[f"{cell.attack}: {reason}"] = None
        return list(told)


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
    )


def _rest(theft: Interval | None) -> Interval | None:
    """What is left of 1."""
    return None if theft is None else Interval(1 - theft.mean, 1 - theft.high, 1 - theft.low, theft.seeds, theft.over)


def _mean(values: Sequence[float | None]) -> float | None:
    known = [value for value in values if value is not None]
    return float(np.mean(known)) if known else None


def _points(vectors: Mapping[str, Vector]) -> dict[str, float]:
    return {task: float(vector[0]) for task, vector in vectors.items()}
