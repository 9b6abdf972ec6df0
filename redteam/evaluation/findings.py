"""From scores to results: grounds, cells, figures, prices and verdicts, in the plan's order."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from redteam.evaluation import results as r
from redteam.evaluation.controls import ControlSheet
from redteam.evaluation.figures import Figures
from redteam.evaluation.graph import Cell
from redteam.evaluation.judge import Judge
from redteam.evaluation.price import price
from redteam.evaluation.statistics import Interval, Vector, combine, unseen
from redteam.evaluation.verdict import Evidence, decide


class Findings:
    """Everything that can be said of a run.

    Args:
        judge: Its scores.
        unprotected: Defenses that protect nothing on purpose, of which no gate speaks.
        adaptive: Defenses for which some attack of the plan was made.
        published: Defenses whose source reports that they stop a merge.
    """

    def __init__(
        self, judge: Judge, *, unprotected: frozenset[str], adaptive: frozenset[str], published: frozenset[str]
    ) -> None:
        self.judge, self.unprotected, self.adaptive, self.published = judge, unprotected, adaptive, published
        self.sheet = ControlSheet(judge)
        self.pairings = [cell for cell in judge.graph.cells if cell.group == "cell"]
        self.table = Figures(judge)
        self.figures = tuple(self.table.figures())
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

    def _verdicts(self) -> tuple[r.Verdict, ...]:
        groups: dict[tuple[str, str, str], list[Cell]] = {}
        for cell in self.pairings:
            groups.setdefault((cell.scenario, cell.defense, cell.threat), []).append(cell)
        return tuple(self._verdict(where, cells) for where, cells in groups.items())

    def _verdict(self, where: tuple[str, str, str], cells: Sequence[Cell]) -> r.Verdict:
        scenario, defense, threat = where
        judged = [cell for cell in cells if cell.role in ("naive", "recovery")]
        mine = [f for f in self.figures if (f.scenario, f.defense, f.threat) == where]
        candidates = self.table.candidates(where)
        naive = [f.theft for f in mine if f.role == "naive" and f.theft is not None]
        fidelity, released = self._fidelity(judged)
        evidence = Evidence(
            gain=self.sheet.gain(scenario, cells),
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
            published=defense in self.published,
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
            by=dict(chosen.by) if chosen else {},
            oracle=r.Oracle(attack=oracle.attack, merger=oracle.merger, theft=oracle.theft) if oracle else None,
            broke_first=min(breakers, key=lambda c: c.cost["seconds"] or 0.0).first if breakers else "",
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


def _rest(theft: Interval | None) -> Interval | None:
    """What is left of 1."""
    return None if theft is None else Interval(1 - theft.mean, 1 - theft.high, 1 - theft.low, theft.seeds, theft.over)


def _points(vectors: Mapping[str, Vector]) -> dict[str, float]:
    return {task: float(vector[0]) for task, vector in vectors.items()}
