"""From scores to rows: figures over seeds and keys, and what else a verdict rests on, place by place."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import partial
from typing import Any

import numpy as np

from redteam.evaluation import rows as r
from redteam.evaluation.controls.base import by_seed, interval
from redteam.evaluation.controls.gain import copies, gains, left_out
from redteam.evaluation.controls.sheet import Sheet
from redteam.evaluation.design import Asked
from redteam.evaluation.pairings import Pairing
from redteam.evaluation.price import UNITS
from redteam.evaluation.scoring import Table
from redteam.evaluation.statistics import Interval, Vector, combine, unseen
from redteam.evaluation.witnesses import adversaries

_CHOSEN_FROM = ("naive", "guess", "recovery")
"""Roles among which a worst case is looked for."""


def figures(
    table: Table,
    asked: Asked,
    pairings: Iterable[Pairing],
    *,
    excluded: frozenset[str] = frozenset(),
    left_out: Sequence[str] = (),
) -> tuple[r.Figure, ...]:
    """The rows of one place: the choices over several attacks first, then every attack with every merger.

    Args:
        table: All scores.
        asked: The place.
        pairings: What was run there, controls left out.
        excluded: Attacks that count for nothing.
        left_out: Mergers that count for nothing.
    """
    pairings, place = list(pairings), asked.place
    choice = counting(table, pairings, excluded, left_out)
    rows = [
        chosen(table, place, "naive", of_seeds([p for p in choice if p.role == "naive"], table.worst)),
        chosen(table, place, "worst", of_seeds(choice, table.worst)),
        _seen(table, place, choice),
    ]
    spared = Counter(
        (m.attack, m.merger) for case in asked.cases for m in case.members if case.gauntlet and m not in set(pairings)
    )
    groups: dict[tuple[str, str, str], list[Pairing]] = {}
    for pairing in pairings:
        groups.setdefault((pairing.attack, pairing.role, pairing.merger), []).append(pairing)
    rows += [_figure(table, place, group, spared[group[0].attack, group[0].merger]) for group in groups.values()]
    return tuple(row for row in rows if row is not None)


def line(
    table: Table,
    pairings: Sequence[Pairing],
    *,
    excluded: frozenset[str] = frozenset(),
    left_out: Sequence[str] = (),
) -> tuple[Interval | None, Interval | None]:
    """Theft by whoever only runs the model, and what the worst case steals beyond it, seed by seed.

    Args:
        table: All scores.
        pairings: What was run at a place, controls left out.
        excluded: Attacks that count for nothing.
        left_out: Mergers that count for nothing.

    Returns:
        `None` twice where nobody imitated anything.
    """
    asking = [p for p in pairings if table.judged(p) and p.merger not in left_out and p.role == "interface"]
    imitated, beyond = [], []
    for pairing, worst in of_seeds(counting(table, pairings, excluded, left_out), table.worst):
        lines = by_seed([p for p in asking if p.seed == pairing.seed], table.theft)
        if lines:
            imitated += lines
            beyond.append(worst - lines[0])
    if not imitated:
        return None, None
    return combine(imitated, lowest=0.0, highest=1.0), combine(beyond, lowest=-1.0, highest=1.0)


def subject(table: Table, asked: Asked, pairings: Sequence[Pairing], sheet: Sheet) -> r.Subject:
    """What is known of a place beside what was stolen."""
    defense = asked.defense
    pairings = [p for p in pairings if not p.whole]
    locks = list({(p.seed, p.key): p for p in asked.pairings if table.judged(p) and p.role == "naive"}.values())
    records = [table.record(p.steps.lock) for p in locks]
    changes = [lock.change for lock in records if lock.change is not None]
    exact = all(link.spec.exact for link in defense.links)
    worth = by_seed(locks, table.worth, worst=min)
    return r.Subject(
        **vars(asked.place),
        protects=defense.any(lambda spec: spec.protects),
        published=defense.any(lambda spec: bool(spec.paper)) and defense.any(lambda spec: spec.protects),
        exact=exact,
        keyed=asked.keyed,
        change=max(changes, default=None) if exact else None,
        worth=combine(worth) if worth else None,
        fidelity=_fidelity(table, locks),
        released=next((lock.dtype for lock in records), ""),
        gains=gains(table, asked),
        copied=copies(table, asked),
        left_out=left_out(table, asked),
        adversaries=tuple(adversaries(table, asked, pairings, sheet, locks)),
        missing=tuple(_missing(table, [*pairings, *(p for ps in sheet.pairings.values() for p in ps)])),
        ceilings=tuple(dict.fromkeys(p.attack for p in asked.later)),
        tried=sheet.tried(table),
        keys=len({p.key for p in asked.pairings}),
    )


def _missing(table: Table, pairings: Iterable[Pairing]) -> Iterable[str]:
    """Sentences on what failed: each reason once, with the attacks that it holds for, unless there was no lock."""
    told: dict[str, dict[str, None]] = {}
    no_lock = set()
    for pairing in pairings:
        status, reason = table.status(pairing)
        if status != "ok" and not table.inapplicable(pairing):
            what = f"{pairing.control} control of {pairing.attack}" if pairing.control else pairing.attack
            told.setdefault(reason := reason.rstrip("."), {})[what] = None
            if table.record(pairing.steps.lock) is None and not pairing.control:
                no_lock.add(reason)
    return [reason if reason in no_lock else f"{', '.join(what)}: {reason}" for reason, what in told.items()]


def _fidelity(table: Table, locks: Sequence[Pairing]) -> dict[str, Interval]:
    """By dtype over all seeds, the worst key of each."""
    kept = {p: table.fidelity(p) for p in locks}
    items = {p.seed: b.items for p in locks if (b := table.baselines(p)) is not None}.values()
    dtypes = next((tuple(found) for found in kept.values() if found), ())
    return {
        dtype: combine(
            by_seed(locks, _of(kept, dtype), worst=min),
            lowest=0.0,
            resolution=float(np.mean([unseen(count) for count in items])) if items else 0.0,
        )
        for dtype in dtypes
    }


def _of(kept: Mapping[Pairing, Mapping[str, Vector]], dtype: str) -> Callable[[Pairing], Vector | None]:
    return lambda pairing: kept[pairing].get(dtype)


def counting(
    table: Table, pairings: Iterable[Pairing], excluded: frozenset[str], left_out: Sequence[str]
) -> list[Pairing]:
    """Those among which a worst case is looked for; see `figures`."""
    allowed = (p for p in pairings if p.attack not in excluded and p.merger not in left_out and p.role in _CHOSEN_FROM)
    return [p for p in allowed if not p.whole and table.judged(p)]


def of_seeds(
    pairings: Iterable[Pairing], choose: Callable[[list[Pairing]], tuple[Pairing, Vector] | None]
) -> list[tuple[Pairing, Vector]]:
    """What is chosen of the pairings of each seed, in the order of seeds."""
    seeds: dict[int, list[Pairing]] = {}
    for pairing in pairings:
        seeds.setdefault(pairing.seed, []).append(pairing)
    return [found for seed in sorted(seeds) if (found := choose(seeds[seed])) is not None]


def chosen(table: Table, place: r.Place, choice: Any, worst: Sequence[tuple[Pairing, Vector]]) -> r.Figure | None:
    """The row of a choice over several attacks, from what was chosen on each seed; `None` where nothing was.

    Args:
        table: All scores.
        place: What the row is about.
        choice: As in the row.
        worst: See `of_seeds`.
    """
    return _summed(table, place, choice, worst) if worst else None


def _seen(table: Table, place: r.Place, pairings: Sequence[Pairing]) -> r.Figure | None:
    """Of every seed and key what an attacker would choose by what they see; of the keys the worst."""
    cases: dict[tuple[int, int], list[tuple[float, Pairing]]] = {}
    for pairing in pairings:
        seen = table.seen(pairing)
        if seen is not None:
            cases.setdefault((pairing.seed, pairing.key), []).append((seen, pairing))
    liked = [max(scored, key=lambda pair: pair[0])[1] for scored in cases.values()]
    return chosen(table, place, "seen", of_seeds(liked, partial(_extreme, table, max)))


def _figure(table: Table, place: r.Place, pairings: Sequence[Pairing], spared: int) -> r.Figure:
    """One attack with one merger."""
    first = pairings[0]
    judged = [p for p in pairings if table.judged(p)]
    failed = [found for p in pairings if (found := table.status(p))[0] != "ok"]
    counts: dict[str, Any] = {
        "cells": len(judged),
        "planned": len(pairings) + spared,
        "spared": spared,
        "inapplicable": sum(table.inapplicable(p) for p in pairings),
        "reason": failed[0][1] if failed else "",
    }
    if not judged:
        status = failed[0][0] if failed else "skipped"
        named: dict[str, Any] = {"attack": first.attack, "role": first.role, "merger": first.merger, "status": status}
        named["whole"] = first.whole
        return r.Figure(**vars(place), **named, **counts)
    lowest = first.role in ("ceiling", "anew")
    worst = of_seeds(judged, partial(_extreme, table, min) if lowest else table.worst)
    made = _summed(table, place, "attack", worst, judged)
    seen = _mean(table.seen(p) for p in judged)
    return made.model_copy(update={**counts, **_residuals(table, judged), "seen": seen, "by": {}})


def _extreme(
    table: Table, pick: Callable[..., tuple[Vector, Pairing]], pairings: Sequence[Pairing]
) -> tuple[Pairing, Vector] | None:
    """The pairing with the largest or smallest figure on all items, `max` or `min`, and that figure."""
    scored = [(counted, p) for p in pairings if (counted := table.counted(p)) is not None]
    if not scored:
        return None
    counted, pairing = pick(scored, key=lambda pair: float(pair[0][0]))
    return pairing, counted


def _summed(
    table: Table,
    place: r.Place,
    choice: Any,
    worst: Sequence[tuple[Pairing, Vector]],
    spent_by: Sequence[Pairing] = (),
) -> r.Figure:
    """A row from the figure of each seed."""
    picked = [pairing for pairing, _ in worst]
    by = Counter(pairing.attack for pairing in picked)
    first = next(p for p in picked if p.attack == by.most_common(1)[0][0])
    data = any(p.data for p in picked)
    counted = dict(worst)

    def theft(pairing: Pairing) -> Vector | None:
        return table.theft(pairing) if pairing.data else counted[pairing]

    def advantage(pairing: Pairing) -> Vector | None:
        """Of what uses no data, everything is beyond what data alone would buy."""
        return table.advantage(pairing) if pairing.data else table.theft(pairing)

    per_seed = []
    for pairing, vector in worst:
        baselines, stolen = table.baselines(pairing), theft(pairing)
        assert baselines is not None
        assert stolen is not None
        per_seed.append(table.figure_of(pairing, float(stolen[0]), vector, baselines))
    costs = [table.record(p.steps.recovered).cost for p in (spent_by or picked)]
    spent: dict[str, Any] = {unit: _mean(getattr(cost, unit) for cost in costs) for unit in UNITS}
    return r.Figure(
        **vars(place),
        choice=choice,
        attack=first.attack,
        role=first.role,
        merger=first.merger,
        whole=first.whole,
        status="ok",
        theft=interval(table, picked, theft),
        counted=interval(table, picked, counted.get),
        advantage=interval(table, picked, advantage, lowest=-1.0) if data else None,
        per_seed=tuple(per_seed),
        cells=len(picked),
        planned=len(picked),
        by=dict(by.most_common()),
        **spent,
        megabytes=_mean(cost.megabytes for cost in costs),
    )


def _residuals(table: Table, pairings: Sequence[Pairing]) -> dict[str, float | None]:
    seeds: dict[int, list[float]] = {}
    for pairing in pairings:
        record = table.record(pairing.steps.recovered)
        if record is not None and record.residual is not None:
            seeds.setdefault(pairing.seed, []).append(record.residual)
    several = [values for values in seeds.values() if len(values) > 1]
    return {
        "residual": _mean(max(values) for values in seeds.values()),
        "key_spread": max(max(values) - min(values) for values in several) if several else None,
    }


def _mean(values: Iterable[float | None]) -> float | None:
    """Of those that there are, to the last bit whatever their order: pairings stand in that in which they ended."""
    known = [value for value in values if value is not None]
    return math.fsum(known) / len(known) if known else None
