"""A warning where more data, or more knowledge, steals less: then the attack is tuned badly, or the score is noisy."""

from __future__ import annotations

from itertools import pairwise
from typing import TYPE_CHECKING

import numpy as np

from redteam.evaluation.results import Control
from redteam.evaluation.statistics import Vector, drops, holm
from redteam.evaluation.thresholds import THRESHOLDS

if TYPE_CHECKING:
    from redteam.evaluation.graph import Cell
    from redteam.evaluation.judge import Judge


def monotone(judge: Judge) -> list[Control]:
    """One warning for each attack whose theft must not fall from one budget of labels to the next, and does or doesn't.

    The p-values are those of paired differences over seeds, corrected together (Holm).
    """
    series: dict[tuple[str, str, str, str], dict[float, list[Cell]]] = {}
    for cell in judge.graph.cells:
        if cell.group == "cell" and cell.unused:
            where = (cell.scenario, cell.defense, cell.attack, cell.merger)
            labels = np.inf if cell.labels is None else float(cell.labels)
            series.setdefault(where, {}).setdefault(labels, []).append(cell)
    pairs = [
        (where, few, many, differences)
        for where, budgets in series.items()
        for (few, less), (many, more) in pairwise(sorted(budgets.items()))
        if (differences := _differences(judge, less, more))
    ]
    corrected = holm([drops(differences) for *_, differences in pairs])
    return [_control(*pair, p) for pair, p in zip(pairs, corrected, strict=True)]


def _differences(judge: Judge, less: list[Cell], more: list[Cell]) -> list[Vector]:
    """Per seed and key, theft with more labels minus theft with fewer; over keys the mean."""
    thefts = {(c.seed, c.key): theft for c in less if (theft := judge.theft(c)) is not None}
    by_seed: dict[int, list[Vector]] = {}
    for cell in more:
        theft = judge.theft(cell)
        if theft is not None and (cell.seed, cell.key) in thefts:
            by_seed.setdefault(cell.seed, []).append(theft - thefts[cell.seed, cell.key])
    return [np.mean(vectors, axis=0) for _, vectors in sorted(by_seed.items())]


def _control(where: tuple[str, str, str, str], few: float, many: float, differences: list[Vector], p: float) -> Control:
    scenario, defense, attack, merger = where
    change = float(np.mean([difference[0] for difference in differences]))
    return Control(
        control="monotone",
        scenario=scenario,
        defense=defense,
        attack=attack,
        passed=p >= THRESHOLDS.monotone,
        value=p,
        limit=THRESHOLDS.monotone,
        warning=True,
        explanation=f"from {_labels(few)} to {_labels(many)} labels theft by {attack} with {merger} changes by "
        f"{change:+.2f} (p that it falls only by chance {p:.2g}, corrected for all such comparisons)",
    )


def _labels(count: float) -> str:
    return "all" if np.isinf(count) else f"{count:g}"
