"""A defense under each of several mergers: what no attack takes with it, and what all of them."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from redteam.evaluation.aggregate import chosen, counting, of_seeds
from redteam.evaluation.pairings import Pairing
from redteam.evaluation.progress import Progress
from redteam.evaluation.rows import FELL_BEFORE, ByMerger, Subject
from redteam.evaluation.scoring import Table
from redteam.evaluation.thresholds import THRESHOLDS


def by_merger(table: Table, place: Progress, subject: Subject, excluded: frozenset[str]) -> Iterator[ByMerger]:
    """One row for each merger of the plan that verdicts can count, where there are several.

    Args:
        table: All scores.
        place: How far the place has come.
        subject: What is known of it.
        excluded: Attacks that count for nothing.
    """
    threat = place.asked.threat
    mergers: dict[str, None] = {}
    for layout in place.asked.layouts.values():
        turns = (merger for _, members in layout.turns(threat) for merger in members)
        counted = (merger for merger in (*layout.mergers(threat), *turns) if not merger.whole)
        mergers |= dict.fromkeys(merger.text for merger in counted)
    if len(mergers) > 1:
        judged = counting(table, place.run, excluded, ())
        for merger in mergers:
            yield _row(table, subject, merger, [p for p in place.run if p.merger == merger], judged)


def _row(table: Table, subject: Subject, merger: str, run: Sequence[Pairing], judged: Sequence[Pairing]) -> ByMerger:
    made = ByMerger(**vars(subject.place), merger=merger, gain=subject.gains.get(merger))
    mine = [pairing for pairing in judged if pairing.merger == merger]
    unattacked = [pairing for pairing in mine if pairing.role == "naive"]
    naive = chosen(table, subject.place, "naive", of_seeds(unattacked, table.worst))
    worst = chosen(table, subject.place, "worst", of_seeds(mine, table.worst))
    failed = [told for pairing in run if (told := table.status(pairing))[0] != "ok"]
    return made.model_copy(
        update={
            "telling": merger in subject.gains and merger not in subject.left_out,
            "naive": naive.theft if naive else None,
            "worst": worst.theft if worst else None,
            "attack": worst.attack if worst else "",
            "cells": len(mine),
            "reason": _silent(subject, merger) if mine else (failed[0][1] if failed else FELL_BEFORE),
        }
    )


def _silent(subject: Subject, merger: str) -> str:
    """Why theft under a merger says nothing; empty where it says something."""
    if merger not in subject.left_out:
        return ""
    return "gains too little" if subject.gains[merger].low < THRESHOLDS.gain else "a mere copy would count as theft"
