"""A warning where more data, or more knowledge, steals less: then the attack is tuned badly, or the score is noisy."""

from __future__ import annotations

from collections.abc import Iterable
from itertools import pairwise

import numpy as np

from redteam.evaluation.pairings import Pairing
from redteam.evaluation.rows import Control
from redteam.evaluation.scoring import Table
from redteam.evaluation.statistics import Vector, drops, holm
from redteam.evaluation.thresholds import THRESHOLDS


def monotonicity(table: Table, pairings: Iterable[Pairing]) -> list[Control]:
    """One row for each attack and pair of neighbouring budgets of labels, between which theft must not fall.

    The p-values are those of paired differences over seeds, corrected together (Holm).
    """
    series: dict[tuple[str, str, str, str], dict[float, list[Pairing]]] = {}
    for pairing in pairings:
        if pairing.data:
            where = (pairing.place.scenario, pairing.place.defense, pairing.attack, pairing.merger)
            labels = np.inf if pairing.labels is None else float(pairing.labels)
            series.setdefault(where, {}).setdefault(labels, []).append(pairing)
    pairs = [
        (where, few, many, differences)
        for where, budgets in series.items()
        for (few, less), (many, more) in pairwise(sorted(budgets.items()))
        if (differences := _differences(table, less, more))
    ]
    corrected = holm([drops(differences) for *_, differences in pairs])
    return [_control(*pair, p) for pair, p in zip(pairs, corrected, strict=True)]


def _differences(table: Table, less: list[Pairing], more: list[Pairing]) -> list[Vector]:
    """Per seed and key, theft with more labels minus theft with fewer; over keys the mean."""
    thefts = {(p.seed, p.key): theft for p in less if (theft := table.theft(p)) is not None}
    by_seed: dict[int, list[Vector]] = {}
    for pairing in more:
        theft = table.theft(pairing)
        if theft is not None and (pairing.seed, pairing.key) in thefts:
            by_seed.setdefault(pairing.seed, []).append(theft - thefts[pairing.seed, pairing.key])
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
