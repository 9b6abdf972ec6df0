"""From records to scores: what a merge stole, what the attacker saw of it, and how sure that is."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import numpy as np

from redteam.evaluation.graph import Cell, Graph, Ground
from redteam.evaluation.measures import DTYPES
from redteam.evaluation.results import Status
from redteam.evaluation.scores import Scores, Yardstick
from redteam.evaluation.statistics import Interval, Vector, combine, unseen

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
        self._prepared: dict[tuple[tuple[str, int, str], str], Yardstick | None] = {}
        self._scores: dict[str, Scores] = self._all_scores()

    def result(self, name: str) -> dict[str, Any] | None:
        """The result of a cell, `None` unless it is there and finished."""
        outcome = self.outcomes.get(name)
        return outcome["result"] if outcome is not None and outcome["status"] == "ok" else None

    def yardstick(self, cell: Cell) -> Yardstick | None:
        """What a cell is measured with: where its chain prepares the victim for the lock, from the prepared one."""
        where = (cell.scenario, cell.seed, cell.merger)
        if not cell.reference:
            return self.yardsticks[where]
        if (where, cell.reference) not in self._prepared:
            plain, reference = self.yardsticks[where], self.result(cell.reference)
            self._prepared[where, cell.reference] = (
                None if plain is None or reference is None else plain.against(reference)
            )
        return self._prepared[where, cell.reference]

    def scores(self, name: str) -> Scores | None:
        """n of a merge on every task; `None` where it has no result."""
        return self._scores.get(name)

    def theft(self, cell: Cell, name: str | None = None) -> Vector | None:
        """Theft of a cell's merge, or of another merge beside it."""
        yardstick, scores = self.yardstick(cell), self.scores(name or cell.merge)
        return None if yardstick is None or scores is None else yardstick.theft(scores)

    def advantage(self, cell: Cell) -> Vector | None:
        """Theft minus that of the same attack with the same budget from the base; `None` for attacks without data."""
        if not cell.unused:
            return None
        theft, unused = self.theft(cell), self.theft(cell, cell.unused)
        return None if theft is None or unused is None else theft - unused

    def counted(self, cell: Cell) -> Vector | None:
        """What verdicts count: theft, or the part of it that the victim was of use for."""
        if not cell.unused:
            return self.theft(cell)
        advantage = self.advantage(cell)
        return None if advantage is None else np.clip(advantage, 0.0, 1.0)

    def interval(
        self,
        cells: Iterable[Cell],
        figure: Callable[[Cell], Vector | None],
        *,
        worst: Callable[..., Any] = max,
        lowest: float = 0.0,
    ) -> Interval:
        """A share over seeds, of each the worst key; never narrower than the number of test items allows."""
        cells = list(cells)
        yardsticks = {cell.seed: y for cell in cells if (y := self.yardstick(cell)) is not None}
        items = sum(y.items for y in yardsticks.values())
        scale = float(np.mean([y.theft_of_all for y in yardsticks.values()])) if yardsticks else 0.0
        return combine(
            self.over_seeds(cells, figure, worst=worst),
            lowest=lowest,
            highest=1.0,
            resolution=unseen(items) * scale if items else 0.0,
        )

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

    def status(self, cell: Cell) -> tuple[Status, str]:
        """The cell's own failure if it has one, else that of what it waited for."""
        for name in (cell.recovered, cell.merge, cell.naive, cell.unused, cell.reference):
            outcome = self.outcomes[name] if name else None
            if outcome is not None and outcome["status"] != "ok":
                return outcome["status"], outcome["reason"]
        return "ok", ""

    def inapplicable(self, cell: Cell) -> bool:
        """Whether the attack has said that it is not for such a checkpoint, so that nothing is missing without it."""
        return bool(self.outcomes[cell.recovered].get("inapplicable"))

    def _yardstick(self, ground: Ground) -> Yardstick | None:
        records = [self.result(name) for name in (ground.alone, ground.without, ground.reference)]
        if any(record is None for record in records):
            return None
        return Yardstick.of(f"{ground.scenario}/{ground.seed}", *records)  # type: ignore[arg-type]

    def _all_scores(self) -> dict[str, Scores]:
        """n of every merge that has a result, by its name; all merges of a seed at once."""
        wanted: dict[tuple[str, int, str], dict[str, None]] = {}
        for cell in self.graph.cells:
            names = [name for name in (cell.merge, cell.naive, cell.unused) if name and self.result(name) is not None]
            wanted.setdefault((cell.scenario, cell.seed, cell.merger), {}).update(dict.fromkeys(names))
        found: dict[str, Scores] = {}
        for where, merges in wanted.items():
            yardstick = self.yardsticks[where]
            if yardstick is not None and merges:
                found.update(
                    zip(merges, yardstick.many_scores([self.outcomes[n]["result"] for n in merges]), strict=True)
                )
        return found


def _agreement(answers: Sequence[int], others: Sequence[int]) -> float:
    return float(np.mean(np.asarray(answers) == np.asarray(others)))
