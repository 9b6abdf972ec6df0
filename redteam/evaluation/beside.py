"""What a task counts beside its score, of the victim alone and of the merges that a verdict speaks of."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from redteam.evaluation.baselines import average
from redteam.evaluation.pairings import Ground, Pairing
from redteam.evaluation.progress import Progress
from redteam.evaluation.rows import Beside, Figure
from redteam.evaluation.scoring import Table
from redteam.evaluation.statistics import Interval, Vector, combine, unseen
from redteam.evaluation.steps import Merged, Scored

Counts = dict[str, tuple[Vector, int]]
"""Name → the figure as `redteam.evaluation.statistics` describes it, and of how many test items."""


def beside(table: Table, places: Sequence[Progress], figures: Sequence[Figure]) -> tuple[Beside, ...]:
    """The rows of all scenarios whose task counts more than its score.

    Args:
        table: All scores.
        places: How far each place has come.
        figures: What was stolen there.
    """
    rows = [*_before_locks(table)]
    for place in places:
        where = vars(place.asked.place)
        naive = [p for p in place.run if p.role == "naive" and p.steps.merge == p.steps.naive]
        for merger in dict.fromkeys(p.merger for p in naive):
            found = _most(table, [p for p in naive if p.merger == merger])
            rows += _row(found, what="locked", merger=merger, **where)
        worst = next((f for f in figures if f.place == place.asked.place and f.choice == "worst"), None)
        if worst is not None:
            picked = {(s.seed, s.key, s.attack, s.merger) for s in worst.per_seed}
            found = _most(table, [p for p in place.run if (p.seed, p.key, p.attack, p.merger) in picked])
            rows += _row(found, what="worst", attack=worst.attack, merger=worst.merger, **where)
    return tuple(rows)


def _before_locks(table: Table) -> Iterator[Beside]:
    groups: dict[tuple[str, str], list[Ground]] = {}
    for ground in table.design.grounds.values():
        groups.setdefault((ground.scenario, ground.merger), []).append(ground)
    alone = dict.fromkeys(scenario for scenario, _ in groups)
    for (scenario, merger), grounds in groups.items():
        if scenario in alone:
            del alone[scenario]
            yield from _row([_counts(table, g, g.alone) for g in grounds], what="victim", scenario=scenario)
        for what, names in (("without", [g.without for g in grounds]), ("unlocked", [g.reference for g in grounds])):
            found = [_counts(table, ground, name) for ground, name in zip(grounds, names, strict=True)]
            yield from _row(found, what=what, scenario=scenario, merger=merger)


def _most(table: Table, pairings: Sequence[Pairing]) -> list[Counts]:
    """Of each seed the figures of the key under which the score is largest."""
    seeds: dict[int, list[Counts]] = {}
    for pairing in pairings:
        if table.judged(pairing):
            seeds.setdefault(pairing.seed, []).append(_counts(table, table.ground(pairing), pairing.steps.merge))
    return [max(found, key=_score) for found in seeds.values()]


def _score(counts: Counts) -> float:
    return next((float(figure[0]) for figure, _ in counts.values()), 0.0)


def _counts(table: Table, ground: Ground, name: str) -> Counts:
    record: Scored | Merged | None = table.record(name)
    alone: Scored | None = table.record(ground.alone)
    if record is None or alone is None:
        return {}
    tag = f"{ground.scenario}/{ground.seed}/{alone.victim}"
    return {what: (average(packed, tag), packed.n) for what, packed in record.beside}


def _row(counts: Sequence[Counts], **about: str) -> Iterator[Beside]:
    counts = [one for one in counts if one]
    if counts:
        yield Beside.model_validate({**about, "figures": {name: _share(counts, name) for name in counts[0]}})


def _share(counts: Sequence[Counts], name: str) -> Interval:
    figures, items = zip(*(one[name] for one in counts), strict=True)
    return combine(figures, lowest=0.0, highest=1.0, resolution=max(map(unseen, items)))
