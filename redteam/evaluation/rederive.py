"""What follows from the rows of `results.json`, derived anew: verdicts, their figures, means over seeds, the gate."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from dataclasses import asdict
from typing import Any

from redteam.errors import BadInput, RedteamError
from redteam.evaluation import over_victims
from redteam.evaluation.flags import FLAGS
from redteam.evaluation.gate import gate
from redteam.evaluation.results import Choice, Results, Verdict
from redteam.evaluation.rows import Model, Subject
from redteam.evaluation.statistics import Interval
from redteam.evaluation.thresholds import THRESHOLDS, Thresholds
from redteam.evaluation.verdict import Decision, Evidence, decide
from redteam.threat import threat_model

_ROUNDING = 1e-9  # of sums of a handful of shares, in another order


class Disagreement(Model):
    """Something that results say and that does not follow from what they rest on.

    Attributes:
        what: What it is about, such as `"the verdict on rotation on digits under weights-only"`.
        field: Which field of it.
        stored: What the results say.
        found: What follows.
    """

    what: str
    field: str
    stored: str
    found: str

    def __str__(self) -> str:
        return f"{self.what}: {self.field} is {self.stored} in the results, and {self.found} follows"


def judged_alike(results: Results) -> bool:
    """Whether the results were judged by the limits of this version, so that their verdicts can be decided anew."""
    return {key: value for key, value in results.thresholds.items() if key != "digest"} == asdict(THRESHOLDS)


def disagreements(results: Results) -> Iterator[Disagreement]:
    """Everything in results that does not follow from their own rows; nothing else is read.

    Verdicts are decided only where they were judged by this version's limits (`judged_alike`).
    """
    yield from _limits(results)
    if judged_alike(results):
        yield from _verdicts(results)
        yield from _over_victims(results)
    yield from _means(results)
    yield from _counts(results)
    if results.gate is not None and not results.runs:  # of several runs each gate spoke of its own
        yield from _gate(results)


def reworded(results: Results) -> Iterator[Disagreement]:
    """What results say of flags and threat models by name, where this version says something else."""
    for name in sorted({flag for verdict in results.verdicts for flag in verdict.flags} | set(results.flags)):
        held, here = (dict(flags[name]) if name in flags else {} for flags in (results.flags, FLAGS))
        for field in (field for field in here or held if held.get(field) != here.get(field)):
            yield _differs(f"the flag {name}", field, held.get(field), here.get(field))
    for name in sorted({verdict.threat for verdict in results.verdicts} | set(results.threats)):
        try:
            known = threat_model(name).words
        except RedteamError:  # of another version
            continue
        if results.threats.get(name) != known:
            yield _differs("the threat model", name, results.threats.get(name), known)


def follows(evidence: Evidence, decision: Decision) -> dict[str, Any]:
    """The fields of a verdict's row that follow from other rows alone: all but imitation and price."""
    subject = evidence.subject
    worst, naive, seen = (evidence.chosen(choice) for choice in ("worst", "naive", "seen"))
    breakers = [f for f in evidence.candidates if any(seed.sure >= THRESHOLDS.stolen for seed in f.per_seed)]
    judged = worst or naive
    return {
        **vars(subject.place),
        "verdict": decision.word,
        "reason": decision.reason,
        "flags": decision.flags,
        "attack": judged.attack if judged else "",
        "merger": judged.merger if judged else "",
        "theft": judged.theft if judged else None,
        "counted": judged.counted if judged else None,
        "advantage": judged.advantage if judged else None,
        "protection": naive.theft.rest if naive is not None and naive.theft is not None else None,
        "fidelity": subject.fidelity,
        "by": judged.by if judged else {},
        "fallen": decision.fallen,
        "seen": Choice(attack=seen.attack, merger=seen.merger, theft=seen.theft) if seen and seen.theft else None,
        "broke_first": min(breakers, key=lambda f: f.seconds or 0.0).attack if breakers else "",
        "cost": {unit: getattr(judged, unit) for unit in ("seconds", "labels", "steps", "megabytes")} if judged else {},
        "keys": subject.keys,
        "rests_on": decision.rests_on,
        "gated": subject.protects,
    }


def said(value: Any) -> str:
    """A value of a row in a few words."""
    if isinstance(value, float):
        return f"{value:.6g}"
    if isinstance(value, (list, tuple)):
        return ", ".join(map(said, value)) or "nothing"
    if isinstance(value, dict):
        return ", ".join(f"{key} {said(one)}" for key, one in value.items()) or "nothing"
    return "nothing" if value in (None, "") else str(value)


def _limits(results: Results) -> Iterator[Disagreement]:
    limits = {key: value for key, value in results.thresholds.items() if key != "digest"}
    try:
        digest = Thresholds(**limits).digest()
    except TypeError:  # limits of another version, whose digest only that one can compute
        return
    if digest != results.thresholds.get("digest"):
        yield _differs("the limits", "digest", str(results.thresholds.get("digest"))[:12], digest[:12])


def _verdicts(results: Results) -> Iterator[Disagreement]:
    held = Counter(verdict.place for verdict in results.verdicts)
    subjects = {subject.place: subject for subject in results.subjects}
    for place in subjects:
        if held[place] != 1:
            yield _differs(f"{place}", "number of verdicts", held[place], 1)
    for verdict in results.verdicts:
        what = f"the verdict on {verdict.place}"
        if verdict.place not in subjects:
            yield _differs(what, "verdict", verdict.verdict, "none, since no row says what is known of the place,")
            continue
        evidence = Evidence.of(results, verdict.place)
        decision = decide(evidence)
        if decision.wanted:
            missing = [f"{kind} of {attack}" for kind, attack in decision.wanted]
            yield _differs(what, "verdict", verdict.verdict, f"none without the controls {said(missing)}")
            continue
        yield from _fields(what, verdict, follows(evidence, decision))


def _over_victims(results: Results) -> Iterator[Disagreement]:
    verdicts: dict[Any, Verdict] = {verdict.place: verdict for verdict in results.verdicts}
    subjects: dict[Any, Subject] = {subject.place: subject for subject in results.subjects}
    for row in results.over_victims:
        what = f"the verdict over all victims on {row.place}"
        places = {victim: type(row.place)(name, row.defense, row.threat) for victim, name in row.victims.items()}
        if missing := [victim for victim, place in places.items() if place not in verdicts or place not in subjects]:
            yield _differs(what, "victims", said(list(row.victims)), f"none of {said(missing)}")
            continue
        here = {victim: verdicts[place] for victim, place in places.items()}
        yield from _fields(what, row, over_victims.follows(here, {v: subjects[place] for v, place in places.items()}))


def _fields(what: str, row: Any, fields: dict[str, Any]) -> Iterator[Disagreement]:
    for name, value in fields.items():
        if getattr(row, name) != value:
            yield _differs(what, name, said(getattr(row, name)), said(value))


def _means(results: Results) -> Iterator[Disagreement]:
    """Of figures over seeds, which must be the mean of their seeds and lie within their own interval."""
    for figure in results.figures:
        what = f"{figure.attack} with {figure.merger} on {figure.place} ({figure.choice})"
        for name in ("theft", "counted"):
            interval: Interval | None = getattr(figure, name)
            if interval is None or not figure.per_seed:
                continue
            mean = sum(float(getattr(seed, name)) for seed in figure.per_seed) / len(figure.per_seed)
            if abs(mean - interval.mean) > _ROUNDING:
                yield _differs(what, f"the mean of {name}", interval.mean, mean)
            if interval.seeds != len(figure.per_seed):
                yield _differs(what, f"the seeds of {name}", interval.seeds, len(figure.per_seed))
            if not interval.low - _ROUNDING <= interval.mean <= interval.high + _ROUNDING:
                yield _differs(what, name, str(interval), "an interval around its mean")


def _counts(results: Results) -> Iterator[Disagreement]:
    if not results.cells or results.coverage is None:
        return
    counts = Counter(cell.status for cell in results.cells)
    found = {
        "planned": len(results.cells),
        "judged": counts["ok"],
        "errors": counts["error"],
        "timeouts": counts["timeout"],
        "skipped": counts["skipped"],
    }
    yield from _fields("the coverage", results.coverage, found)


def _gate(results: Results) -> Iterator[Disagreement]:
    assert results.gate is not None
    try:
        again = gate(results.told, results.gate.expression.split(" or "), results.figures)
    except BadInput as error:
        yield _differs("the gate", "expression", results.gate.expression, f"no answer ({error})")
        return
    yield from _fields("the gate", results.gate, dict(again))


def _differs(what: str, field: str, stored: object, found: object) -> Disagreement:
    return Disagreement(what=what, field=field, stored=said(stored), found=said(found))
