"""Mergers that keep every expert whole: what each makes of a defense, and what it costs, beside the verdict."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any

import numpy as np

from redteam.evaluation.aggregate import chosen, of_seeds
from redteam.evaluation.controls.base import by_seed
from redteam.evaluation.pairings import Pairing
from redteam.evaluation.rows import Place, WholeMerge
from redteam.evaluation.scoring import Table
from redteam.evaluation.statistics import Vector, combine
from redteam.evaluation.thresholds import THRESHOLDS


def whole_merges(
    table: Table, place: Place, pairings: Iterable[Pairing], *, excluded: frozenset[str]
) -> Iterator[WholeMerge]:
    """One row for each such merger of a place.

    Args:
        table: All scores.
        place: What the rows are about.
        pairings: What was run there, controls left out.
        excluded: Attacks that count for nothing.
    """
    groups: dict[str, list[Pairing]] = {}
    for pairing in pairings:
        if pairing.whole:
            groups.setdefault(pairing.merger, []).append(pairing)
    for merger, mine in groups.items():
        yield WholeMerge(**vars(place), merger=merger, **_found(table, place, mine, excluded))


def _found(table: Table, place: Place, pairings: list[Pairing], excluded: frozenset[str]) -> dict[str, Any]:
    judged = [p for p in pairings if p.attack not in excluded and table.judged(p)]
    failed = [reason for p in pairings if not table.inapplicable(p) for status, reason in [table.status(p)] if reason]
    records = [table.record(p.steps.merge) for p in judged]
    gain = by_seed(judged, lambda pairing: _gain(table, pairing))
    found: dict[str, Any] = {"cells": len(judged), "reason": failed[0] if failed else ""}
    if not gain:
        return found
    found["stored"] = float(np.mean([record.stored for record in records]))
    found["inference"] = float(np.median([record.inference for record in records]))
    found["gain"] = combine(gain)
    if found["gain"].low < THRESHOLDS.gain:
        return {**found, "reason": "the unlocked victim adds too little to such a merge to be stolen"}
    naive = chosen(table, place, "naive", of_seeds((p for p in judged if p.role == "naive"), table.worst))
    worst = chosen(table, place, "worst", of_seeds(judged, table.worst))
    found["theft"] = naive.theft if naive else None
    return {**found, "attacked": worst.theft, "attack": worst.attack} if worst else found


def _gain(table: Table, pairing: Pairing) -> Vector | None:
    baselines = table.baselines(pairing)
    return None if baselines is None else baselines.gain
