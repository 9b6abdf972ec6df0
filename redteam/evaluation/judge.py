"""From records to results: scores every cell, checks every control, gathers the evidence for every verdict."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import numpy as np

from redteam.evaluation import results as r
from redteam.evaluation.controls import ControlSheet
from redteam.evaluation.graph import Cell, Graph, Ground
from redteam.evaluation.measures import DTYPES
from redteam.evaluation.scores import Scores, Yardstick
from redteam.evaluation.statistics import Interval, Vector, combine
from redteam.evaluation.verdict import Candidate, Evidence, decide

Outcomes = Mapping[str, dict[str, Any]]


class Judge:
    """All scores of a run, computed once from its records.

    Args:
        graph: The cells of the plan.
        outcomes: Name → status and result, for every cell.
    """

    def __init__(self, graph: Graph, outcomes: Outcomes) -> None:
        self.graph, self.outcomes = graph, outcomes
        self.grounds: dict[tuple[str, int, str], Ground] = {(g.scenario, g.seed, g.merger): g for g in graph.grounds}
        self.yardsticks = {where: self._yardstick(ground) for where, ground in self.grounds.items()}
        self._scores: dict[tuple[str, str], Scores] = {}

    def result(self, name: str) -> dict[str, Any] | None:
        """The result of a cell, `None` unless it is finished."""
        outcome = self.outcomes[name]
        return outcome["result"] if outcome["status"] == "ok" else None

    def yardstick(self, cell: Cell) -> Yardstick | None:
        """What a cell is measured with."""
        return self.yardsticks[cell.scenario, cell.seed, cell.merger]

    def scores(self, cell: Cell, name: str) -> Scores | None:
        """n of a merge on every task."""
        yardstick, record = self.yardstick(cell), self.result(name)
        if yardstick is None or record is None:
            return None
        where = (name, cell.merger)
        if where not in self._scores:
            self._scores[where] = yardstick.scores(record)
        return self._scores[where]

    def theft(self, cell: Cell, name: str | None = None) -> Vector | None:
        """Theft of a cell's merge, or of another merge beside it."""
        yardstick, scores = self.yardstick(cell), self.scores(cell, name or cell.merge)
        return None if yardstick is None or scores is None else yardstick.theft(scores)

    def seen(self, cell: Cell) -> float | None:
        """What an attacker without the victim's data sees of a merge, and chooses by.

        The share of the protected model's answers that came over, on inputs of the attacker's own tasks, counted from
        the companions-only merge as theft is; and by how much the own tasks' mean n, on validation data, changed.
        """
        ground = self.grounds[cell.scenario, cell.seed, cell.merger]
        records = [self.result(name) for name in (cell.merge, ground.without, cell.lock, ground.alone)]
        merge, without, lock, alone = records
        if merge is None or without is None or lock is None or alone is None:
            return None
        own = {t: alone["validation"][t] - alone["chance"][t] for t in alone["validation"]}
        change = [(merge["seen"]["validation"][t] - without["seen"]["validation"][t]) / own[t] for t in own]
        agree, start = (_agreement(record["seen"]["answers"], lock["answers"]) for record in (merge, without))
        return (agree - start) / (1.0 - start) + float(np.mean(change)) if start < 1.0 else float(np.mean(change))

    def fidelity(self, cell: Cell) -> dict[str, Vector]:
        """Accuracy of the protected model alone over the victim's, by the dtype that both are stored in."""
        yardstick, lock = self.yardstick(cell), self.result(cell.lock)
        alone = self.result(self.grounds[cell.scenario, cell.seed, cell.merger].alone)
        if yardstick is None or lock is None or alone is None:
            return {}
        both = {dtype: (lock["stored"][dtype], alone["stored"][dtype]) for dtype in DTYPES}
        return {dtype: yardstick.fidelity(*pair) for dtype, pair in both.items()}

    def over_seeds(
        self, cells: Iterable[Cell], figure: Callable[[Cell], Vector | None], *, worst: Callable[..., Any] = max
    ) -> list[Vector]:
        """Per seed the figure of the key that is worst; seeds without a figure are left out."""
        by_seed: dict[int, list[Vector]] = {}
        for cell in cells:
            vector = figure(cell)
            if vector is not None:
                by_seed.setdefault(cell.seed, []).append(vector)
        return [worst(vectors, key=lambda vector: vector[0]) for _, vectors in sorted(by_seed.items())]

    def status(self, cell: Cell) -> tuple[r.Status, str]:
        """The cell's own failure if it has one, else that of what it waited for."""
        for name in (cell.recovered, cell.merge, cell.naive):
            outcome = self.outcomes[name]
            if outcome["status"] != "ok":
                return outcome["status"], outcome["reason"]
        return "ok", ""

    def results(self) -> tuple[tuple[r.Ground, ...], tuple[r.Cell, ...], tuple[r.Control, ...], tuple[r.Verdict, ...]]:
        """Grounds, cells, controls and verdicts, in the plan's order."""
        sheet = ControlSheet(self)
        cells = tuple(self._cell(cell) for cell in self.graph.cells if cell.group == "cell")
        skipped = tuple(r.Cell(victim="", key=0, role="recovery", merger="", **entry) for entry in self.graph.skipped)
        return self._grounds(), cells + skipped, sheet.controls, self._verdicts(sheet)

    def _yardstick(self, ground: Ground) -> Yardstick | None:
        records = [self.result(name) for name in (ground.alone, ground.without, ground.reference)]
        if any(record is None for record in records):
            return None
        return Yardstick.of(f"{ground.scenario}/{ground.seed}", *records)  # type: ignore[arg-type]

    def _grounds(self) -> tuple[r.Ground, ...]:
        made = []
        for where, ground in self.grounds.items():
            yardstick, alone, tune = self.yardsticks[where], self.result(ground.alone), self.result(ground.tune)
            if yardstick is None or alone is None or tune is None:
                continue
            base = {t: float(yardstick.score(packed, t)[0]) for t, packed in alone["base"].items()}
            made.append(
                r.Ground(
                    scenario=ground.scenario,
                    seed=ground.seed,
                    merger=ground.merger,
                    digest=alone["digest"],
                    settings=tune["settings"],
                    experts=_points(yardstick.expert),
                    base=base,
                    without=_points(yardstick.without),
                    reference=_points(yardstick.reference),
                    gain=float(yardstick.gain[0]),
                )
            )
        return tuple(made)

    def _cell(self, cell: Cell) -> r.Cell:
        outcome, recovered, lock = self.outcomes[cell.merge], self.result(cell.recovered), self.result(cell.lock)
        yardstick, attacked, locked = self.yardstick(cell), self.scores(cell, cell.merge), self.scores(cell, cell.naive)
        scores: dict[str, Any] = {}
        cost: dict[str, float | None] = {}
        status, reason = self.status(cell)
        if (
            yardstick is not None
            and attacked is not None
            and locked is not None
            and recovered is not None
            and lock is not None
        ):
            recovery = yardstick.recovery(attacked, locked)
            scores = {
                "theft": float(yardstick.theft(attacked)[0]),
                "protection": 1.0 - float(yardstick.theft(locked)[0]),
                "recovery": None if recovery is None else float(recovery[0]),
                "residual": recovered["residual"],
                "change": recovered["change"],
                "fidelity": {dtype: float(vector[0]) for dtype, vector in self.fidelity(cell).items()},
                "seen": self.seen(cell),
            }
            cost = {**recovered["cost"], "merge_seconds": outcome["result"]["cost"]["seconds"]}
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

    def _verdicts(self, sheet: ControlSheet) -> tuple[r.Verdict, ...]:
        groups: dict[tuple[str, str, str], list[Cell]] = {}
        for cell in self.graph.cells:
            if cell.group == "cell":
                groups.setdefault((cell.scenario, cell.defense, cell.threat), []).append(cell)
        return tuple(self._verdict(where, cells, sheet) for where, cells in groups.items())

    def _verdict(self, where: tuple[str, str, str], cells: Sequence[Cell], sheet: ControlSheet) -> r.Verdict:
        scenario, defense, threat = where
        judged = [cell for cell in cells if cell.role in ("naive", "recovery")]
        candidates = self._candidates(judged)
        naive = [c for c in candidates if c.attack in {cell.attack for cell in judged if cell.role == "naive"}]
        fidelity, released = self._fidelity(judged)
        evidence = Evidence(
            gain=sheet.gain(scenario),
            failed=sheet.doubts(scenario, defense, threat),
            naive=max((c.theft for c in naive), key=lambda theft: theft.mean, default=None),
            candidates=candidates,
            reliable=sheet.reliable(scenario, threat, {cell.attack for cell in judged if cell.role == "recovery"}),
            ceiling=sheet.ceiling(scenario, defense, threat),
            targeted=sheet.targeted(scenario, defense, threat),
            missing=self._missing(cells) + sheet.unfinished(scenario, defense, threat),
            fidelity=fidelity.get(released),
        )
        decision, chosen, oracle = decide(evidence), evidence.chosen, evidence.oracle
        protection = None
        if evidence.naive is not None:
            n = evidence.naive
            protection = Interval(1 - n.mean, 1 - n.high, 1 - n.low, n.seeds, n.over)
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
            protection=protection,
            fidelity=fidelity,
            oracle=r.Oracle(attack=oracle.attack, merger=oracle.merger, theft=oracle.theft) if oracle else None,
            cost={"seconds": chosen.seconds} if chosen else {},
        )

    def _candidates(self, cells: Sequence[Cell]) -> list[Candidate]:
        pairs: dict[tuple[str, str], list[Cell]] = {}
        for cell in cells:
            pairs.setdefault((cell.attack, cell.merger), []).append(cell)
        made = []
        for (attack, merger), group in pairs.items():
            thefts = self.over_seeds(group, self.theft)
            seen = [value for cell in group if (value := self.seen(cell)) is not None]
            if thefts and seen and len(thefts) == len({cell.seed for cell in group}):
                seconds = [record["cost"]["seconds"] for cell in group if (record := self.result(cell.recovered))]
                theft = combine(thefts, lowest=0.0, highest=1.0)
                made.append(Candidate(attack, merger, theft, float(np.mean(seen)), float(np.mean(seconds))))
        return made

    def _fidelity(self, cells: Sequence[Cell]) -> tuple[dict[str, Interval], str]:
        """By dtype over all seeds, the worst key of each, and which of the dtypes the model is released in."""
        released = next((lock["dtype"] for cell in cells if (lock := self.result(cell.lock)) is not None), "")
        figures = {cell: self.fidelity(cell) for cell in cells}

        def stored_in(dtype: str) -> Callable[[Cell], Vector | None]:
            return lambda cell: figures[cell].get(dtype)

        dtypes = next((tuple(found) for found in figures.values() if found), ())
        made = {d: combine(self.over_seeds(cells, stored_in(d), worst=min), lowest=0.0) for d in dtypes}
        return made, released

    def _missing(self, cells: Sequence[Cell]) -> list[str]:
        told: dict[str, None] = {}
        for cell in cells:
            status, reason = self.status(cell)
            if status != "ok":
                told[f"{cell.attack}: {reason}"] = None
        return list(told)


def _agreement(answers: Sequence[int], others: Sequence[int]) -> float:
    return float(np.mean(np.asarray(answers) == np.asarray(others)))


def _points(vectors: Mapping[str, Vector]) -> dict[str, float]:
    return {task: float(vector[0]) for task, vector in vectors.items()}
