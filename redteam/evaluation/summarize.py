"""From scores to results: every row of a run, in the plan's order."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from typing import Any

from redteam.evaluation import results as r
from redteam.evaluation.aggregate import counting, line
from redteam.evaluation.beside import beside
from redteam.evaluation.by_merger import by_merger
from redteam.evaluation.controls.gain import gain_controls
from redteam.evaluation.controls.monotonicity import monotonicity
from redteam.evaluation.design import Design
from redteam.evaluation.over_victims import over_victims
from redteam.evaluation.pairings import Pairing
from redteam.evaluation.poor_mergers import sentences
from redteam.evaluation.price import Spent, price
from redteam.evaluation.progress import Progress
from redteam.evaluation.rederive import follows
from redteam.evaluation.scoring import Table
from redteam.evaluation.statistics import Vector
from redteam.evaluation.steps import Cost
from redteam.evaluation.verdict import Evidence, about, decide, excluded


class Summary:
    """All rows of a run.

    Args:
        design: The plan laid out.
        table: All scores.
        places: How far each place has come.
    """

    def __init__(self, design: Design, table: Table, places: Sequence[Progress]) -> None:
        self.design, self.table = design, table
        rows = [row for place in places for row in place.sheet.rows(table)]
        run = [pairing for place in places for pairing in place.run]
        self.controls = (
            *gain_controls(table),
            *{_identity(row): row for row in rows}.values(),
            *monotonicity(table, run),
        )
        self.subjects = tuple(place.subject(table) for place in places)
        found = [
            (place, subject, excluded(c for _, c in about(subject, self.controls)))
            for place, subject in zip(places, self.subjects, strict=True)
        ]
        self.figures = tuple(figure for place, _, out in found for figure in place.figures(table, out))
        self.by_merger = tuple(row for place, subject, out in found for row in by_merger(table, place, subject, out))
        self.whole = tuple(row for place, _, out in found for row in place.whole(table, out))
        self.cells = (
            *(cell(table, pairing) for pairing in dict.fromkeys(run)),
            *(r.Cell(victim="", key=0, role="recovery", merger="", **dict(row)) for row in design.skipped),
        )
        self.grounds = tuple(_grounds(table))
        self.verdicts = tuple(
            verdict(table, place, self._evidence(subject)) for place, subject in zip(places, self.subjects, strict=True)
        )
        self.over_victims = tuple(self._over_victims(places))
        self.beside = beside(table, places, self.figures)

    @property
    def left_out(self) -> tuple[str, ...]:
        """Sentences on mergers of which no verdict was drawn, or one to be read with a copy of the victim beside it."""
        return (*sorted(self.design.withheld), *sentences(self.subjects))

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

    def _over_victims(self, places: Sequence[Progress]) -> Iterable[r.OverVictims]:
        rows = {
            subject.place: (verdict, subject, place)
            for place, subject, verdict in zip(places, self.subjects, self.verdicts, strict=True)
        }
        for family, victims in self.design.families.items():
            for defense, threat in dict.fromkeys((p.defense, p.threat) for p in rows if p.scenario in victims.values()):
                here = {v: found for v, name in victims.items() if (found := rows.get(r.Place(name, defense, threat)))}
                yield over_victims(
                    self.table,
                    r.Place(family, defense, threat),
                    {victim: verdict for victim, (verdict, _, _) in here.items()},
                    {victim: subject for victim, (_, subject, _) in here.items()},
                    {victim: self._counting(subject, place) for victim, (_, subject, place) in here.items()},
                )

    def _counting(self, subject: r.Subject, place: Progress) -> list[Pairing]:
        out = excluded(control for _, control in about(subject, self.controls))
        return counting(self.table, place.run, out, subject.left_out)

    def _evidence(self, subject: r.Subject) -> Evidence:
        figures = tuple(figure for figure in self.figures if figure.place == subject.place)
        return Evidence(subject, figures, tuple(about(subject, self.controls)))


def verdict(table: Table, place: Progress, evidence: Evidence) -> r.Verdict:
    """The row of a verdict."""
    decision, subject = decide(evidence), evidence.subject
    if decision.wanted:
        raise RuntimeError(f"{decision.word} of {subject.place} rests on controls that were not computed")
    imitated, beyond = line(table, list(place.run), excluded=evidence.excluded, left_out=subject.left_out)
    fields = follows(evidence, decision)
    return r.Verdict(**fields, imitation=imitated, beyond=beyond, price=_price(table, place, evidence))


def provisional(table: Table, place: Progress) -> r.Verdict:
    """The row of a verdict while the rest of the run goes on."""
    return verdict(table, place, place.evidence(table, place.sheet.rows(table)))


def cell(table: Table, pairing: Pairing) -> r.Cell:
    """One pairing under one seed and key."""
    steps, baselines = pairing.steps, table.baselines(pairing)
    merge, naive, recovered = (table.record(name) for name in (steps.merge, steps.naive, steps.recovered))
    status, reason = table.status(pairing)
    scores: dict[str, Any] = {}
    tasks: Mapping[str, Vector] = {}
    cost: dict[str, float | None] = {}
    if status == "ok" and baselines is not None:
        tasks, locked = baselines.scores(merge), baselines.scores(naive)
        scores = {
            "theft": _point(baselines.theft(merge)),
            "counted": _point(table.counted(pairing)),
            "advantage": _point(table.advantage(pairing)),
            "protection": 1.0 - float(baselines.theft(naive)[0]),
            "recovery": _point(baselines.recovery(tasks, locked)),
            "residual": recovered.residual,
            "change": recovered.change,
            "fidelity": {dtype: float(vector[0]) for dtype, vector in table.fidelity(pairing).items()},
            "seen": table.seen(pairing),
        }
        cost = {**vars(_cost(table, pairing)), "merge_seconds": merge.cost.seconds}
    return r.Cell(
        **vars(pairing.place),
        seed=pairing.seed,
        victim=baselines.victim if baselines else "",
        key=pairing.key,
        attack=pairing.attack,
        role=pairing.role,
        merger=pairing.merger,
        status=status,
        reason=reason,
        scores=scores,
        tasks={task: float(vector[0]) for task, vector in tasks.items()},
        cost=cost,
    )


def _grounds(table: Table) -> Iterable[r.Ground]:
    for where, ground in table.design.grounds.items():
        baselines, alone, tune = table.ground_baselines(where), table.record(ground.alone), table.record(ground.tune)
        if baselines is not None and alone is not None and tune is not None:
            yield r.Ground(
                scenario=ground.scenario,
                seed=ground.seed,
                merger=ground.merger,
                digest=str(table.design.steps[ground.alone].settings["scenario"]),
                settings=tune.settings,
                experts=_points(baselines.expert),
                base={task: float(baselines.score(packed, task)[0]) for task, packed in alone.base.items()},
                without=_points(baselines.without_scores),
                reference=_points(baselines.reference_scores),
                gain=float(baselines.gain[0]),
                copied=float(baselines.copied[0]),
            )


def _price(table: Table, place: Progress, evidence: Evidence) -> r.Price | None:
    spent: dict[tuple[str, str, str], dict[int, list[Cost]]] = {}
    for pairing in place.run:
        if table.judged(pairing):
            costs = spent.setdefault((pairing.role, pairing.attack, pairing.merger), {})
            costs.setdefault(pairing.seed, []).append(_cost(table, pairing))
    anew = next((_means(costs) for (role, *_), costs in spent.items() if role == "anew"), None)
    attacks = [
        (f.attack, f.merger, f.counted.mean, _means(spent.get((f.role, f.attack, f.merger), {})))
        for f in evidence.candidates
        if f.role == "recovery" and f.counted is not None and not f.spared
    ]
    return price(attacks, anew)


def _cost(table: Table, pairing: Pairing) -> Cost:
    """What an attack has used up; labels that the merge alone took, which are the same ones, count as well."""
    cost: Cost = table.record(pairing.steps.recovered).cost
    merged = table.record(pairing.steps.merge).cost.labels if pairing.steps.merge else 0
    return replace(cost, labels=max(cost.labels, merged))


def _means(costs: Mapping[int, Sequence[Cost]]) -> Spent:
    return {
        seed: Cost(
            sum(cost.seconds for cost in found) / len(found),
            labels=max(cost.labels for cost in found),
            steps=max(cost.steps for cost in found),
        )
        for seed, found in costs.items()
    }


def _identity(row: r.Control) -> tuple[str, ...]:
    return row.control, row.scenario, row.defense, row.threat, row.attack, row.site, row.group


def _point(vector: Vector | None) -> float | None:
    return None if vector is None else float(vector[0])


def _points(vectors: Mapping[str, Vector]) -> dict[str, float]:
    return {task: float(vector[0]) for task, vector in vectors.items()}
