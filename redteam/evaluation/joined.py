"""Several runs put beside each other as one: what one report needs to show them together, and nothing computed anew."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from itertools import combinations
from typing import Any

from redteam.errors import BadInput
from redteam.evaluation.plan import Product
from redteam.evaluation.results import Coverage, Gate, OneRun, Results
from redteam.evaluation.rows import Beside, Control, Place
from redteam.evaluation.verdict import Evidence, decide

Named = Mapping[str, Results]
"""What errors call a run → what it found."""


def joined(runs: Named, *, name: str = "") -> Results:
    """One set of results with the rows of several, in their order.

    Versions of the program may differ, which the results then say (`Results.runs`). What would mislead is refused: rows
    that are judged by other limits, one name for two things, two verdicts on one place.

    Args:
        runs: At least one.
        name: What the plan of all is called; by default the plans' names, joined.

    Raises:
        BadInput: If they don't belong into one report, with the reason.
    """
    if len(runs) == 1:
        return next(iter(runs.values()))
    for one, other in combinations(runs, 2):
        _require_comparable(runs, one, other)
    held = list(runs.values())
    whose = _whose(held)
    controls, places = _controls(held)
    together = Results(
        schema=2,
        plan=_plan([results.plan for results in held], name),
        command=" && ".join(dict.fromkeys(results.command for results in held)),
        environment=_environment([results.environment for results in held]),
        thresholds=held[0].thresholds,
        grounds=tuple({(g.scenario, g.seed, g.merger): g for r in reversed(held) for g in r.grounds}.values()),
        cells=tuple(row for k, r in enumerate(held) for row in r.cells if whose.get(row.place, k) == k),
        subjects=tuple(row for k, r in enumerate(held) for row in r.subjects if whose[row.place] == k),
        figures=tuple(row for k, r in enumerate(held) for row in r.figures if whose[row.place] == k),
        controls=controls,
        verdicts=tuple(
            row.model_copy(update={"rests_on": tuple(places[k][index] for index in row.rests_on)})
            for k, r in enumerate(held)
            for row in r.verdicts
            if whose[row.place] == k
        ),
        whole=tuple(row for k, r in enumerate(held) for row in r.whole if whose.get(row.place, k) == k),
        over_victims=tuple({row.place: row for r in reversed(held) for row in r.over_victims}.values()),
        beside=tuple({_told_of(row): row for r in reversed(held) for row in r.beside}.values()),
        flags=_merged(r.flags for r in held),
        threats=_merged(r.threats for r in held),
        about={kind: _merged(r.about.get(kind, {}) for r in held) for kind in _merged(r.about for r in held)},
        settings={kind: _merged(r.settings.get(kind, {}) for r in held) for kind in _merged(r.settings for r in held)},
        by_merger=tuple(row for k, r in enumerate(held) for row in r.by_merger if whose[row.place] == k),
        gauntlets=_merged(r.gauntlets for r in held),
        merger_gauntlets=_merged(r.merger_gauntlets for r in held),
        claims=_merged(r.claims for r in held),
        untested=tuple(_untested(held)),
        coverage=_coverage(held),
        computed=dict(sum((Counter(r.computed) for r in held), Counter())),
        gate=_gate([r.gate for r in held if r.gate is not None]),
        runs=tuple(_told(results) for results in held),
    )
    _require_same_verdicts(runs, together)
    return together


def _require_comparable(runs: Named, one: str, other: str) -> None:
    first, second = runs[one], runs[other]
    if limits := _different(first.thresholds, second.thresholds):
        told = ", ".join(f"{name} {a} and {b}" for name, a, b in limits if name != "digest") or "another version's"
        raise BadInput(
            f"{one} and {other} were judged by different limits ({told}), so that their verdicts don't compare; run "
            "the older one again."
        )
    digests = {(ground.scenario, ground.seed): ground.digest for ground in first.grounds}
    for ground in second.grounds:
        if digests.get((ground.scenario, ground.seed), ground.digest) != ground.digest:
            raise BadInput(
                f"{one} and {other} both have a scenario {ground.scenario}, with other models or data under seed "
                f"{ground.seed}; give one of them a name of its own, or run it again."
            )
    for kind in ("defense", "attack", "merger"):  # of scenarios the digests tell
        for text, mine, theirs in _different(first.settings.get(kind, {}), second.settings.get(kind, {})):
            if _differ(mine, theirs):
                told = f"{_in_words(mine)}, and in {other} {_in_words(theirs)}"
                raise BadInput(f"In {one} the {kind} {text} has the settings {told}; run the older one again.")
    gauntlets = _different(first.gauntlets, second.gauntlets)
    for gauntlet, _, _ in gauntlets + _different(first.merger_gauntlets, second.merger_gauntlets):
        raise BadInput(f"{gauntlet} has other members in {one} than in {other}; run the older one again.")
    for place in {v.place for v in first.verdicts} & {v.place for v in second.verdicts}:
        if _rows(first, place) != _rows(second, place):
            raise BadInput(f"Both {one} and {other} judge {place}, and not alike; name the one to believe.")


def _require_same_verdicts(runs: Named, together: Results) -> None:
    """Controls of an attack speak of every defense of a scenario; those of one run must change no other's verdict."""
    counts = Counter(where for results in runs.values() for where in {(v.scenario, v.threat) for v in results.verdicts})
    for name, results in runs.items():
        for verdict in results.verdicts:
            if counts[verdict.scenario, verdict.threat] < 2:
                continue
            if _decided(results, verdict.place) != _decided(together, verdict.place):
                raise BadInput(
                    f"The verdict of {name} on {verdict.place} would be another one beside the other runs' controls; "
                    "run both as one plan into one folder, which computes only what is missing."
                )


def _decided(results: Results, place: Place) -> tuple[Any, ...]:
    """The verdict on a place, decided anew, and the controls that it rests on."""
    found = decide(Evidence.of(results, place))
    return found.word, found.reason, found.flags, {results.controls[index] for index in found.rests_on}


def _rows(results: Results, place: Place) -> tuple[Any, ...]:
    """All about one place that does not change with where its controls stand."""
    verdict = next(v for v in results.verdicts if v.place == place)
    subject = next((s for s in results.subjects if s.place == place), None)
    figures = tuple(f for f in results.figures if f.place == place)
    return verdict.model_copy(update={"rests_on": ()}), subject, figures


def _whose(held: Sequence[Results]) -> dict[Place, int]:
    """Place → the first run that has it."""
    return {row.place: k for k, r in reversed(list(enumerate(held))) for row in (*r.subjects, *r.figures, *r.verdicts)}


def _controls(held: Sequence[Results]) -> tuple[tuple[Control, ...], list[list[int]]]:
    """All controls, each once, and for each run where its own stand among them."""
    made: dict[Control, int] = {}
    places = [[made.setdefault(control, len(made)) for control in results.controls] for results in held]
    return tuple(made), places


def _plan(plans: Sequence[dict[str, Any]], name: str) -> dict[str, Any]:
    """The product of the first, and those of the others beside it."""
    products = [
        {key: value for key, value in product.items() if key in Product.model_fields}
        for plan in plans
        for product in (plan, *plan.get("also", ()))
    ]
    first, *others = products
    also = [product for k, product in enumerate(others) if product != first and product not in others[:k]]
    called = name or "-and-".join(dict.fromkeys(str(plan["name"]) for plan in plans))
    asked = dict.fromkeys(condition for plan in plans for condition in plan.get("fail_on", ()))
    return {**plans[0], "name": called, "also": also, **({"fail_on": list(asked)} if asked else {})}


def _gate(gates: Sequence[Gate]) -> Gate | None:
    """What the gates of runs that had one come to, each of its own run's verdicts."""
    if not gates:
        return None
    outcomes = {one.outcome for one in gates}
    return Gate(
        expression=" or ".join(dict.fromkeys(text for one in gates for text in one.expression.split(" or "))),
        outcome="undefined" if "undefined" in outcomes else "failed" if "failed" in outcomes else "held",
        failed=tuple(dict.fromkeys(place for one in gates for place in one.failed)),
        undefined=tuple(dict.fromkeys(place for one in gates for place in one.undefined)),
    )


def _environment(given: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """What they agree on as it is, what they don't side by side, durations summed where all are known."""
    found: dict[str, Any] = {}
    for key in _merged(given):
        values = list(dict.fromkeys(one[key] for one in given if key in one))
        found[key] = values[0] if len(values) == 1 else ", ".join(map(str, values))
    if "duration" in found:
        del found["duration"]
        if all("duration" in one for one in given):
            found["duration"] = sum(float(one["duration"]) for one in given)
    return found


def _untested(held: Sequence[Results]) -> Iterator[str]:
    """What holds of all runs as it is, the rest with the run that it is said of."""
    for sentence in dict.fromkeys(sentence for results in held for sentence in results.untested):
        missing = [str(results.plan["name"]) for results in held if sentence in results.untested]
        yield sentence if len(missing) == len(held) else f"In {', '.join(dict.fromkeys(missing))}: {sentence}"


def _coverage(held: Sequence[Results]) -> Coverage | None:
    known = [results.coverage for results in held if results.coverage is not None]
    if len(known) < len(held):
        return None
    return Coverage(**{name: sum(getattr(one, name) for one in known) for name in Coverage.model_fields})


def _told_of(row: Beside) -> tuple[str, ...]:
    """What a row is about; of one place the worst case is one row, whatever attack is behind it."""
    return row.what, row.scenario, row.defense, row.threat, "" if row.what == "worst" else row.merger


def _told(results: Results) -> OneRun:
    return OneRun(
        plan=str(results.plan["name"]),
        scenarios=tuple(dict.fromkeys(verdict.scenario for verdict in results.verdicts)),
        command=results.command,
        environment=results.environment,
    )


def _different(one: Mapping[str, Any], other: Mapping[str, Any]) -> list[tuple[str, Any, Any]]:
    """What stands under one name in both, and is not the same."""
    return [(key, one[key], other[key]) for key in one if key in other and one[key] != other[key]]


def _differ(one: Sequence[Mapping[str, Any]], other: Sequence[Mapping[str, Any]]) -> bool:
    """Whether links differ in a setting that both know; one that is new has as its default what was before."""
    return len(one) != len(other) or any(_different(a, b) for a, b in zip(one, other, strict=True))


def _in_words(settings: Iterable[Mapping[str, Any]]) -> str:
    return "; ".join(", ".join(f"{key} {value}" for key, value in link.items()) or "none" for link in settings)


def _merged(given: Iterable[Mapping[str, Any]]) -> dict[str, Any]:
    """All entries, of those under one name the first."""
    found: dict[str, Any] = {}
    for one in given:
        for key, value in one.items():
            found.setdefault(key, value)
    return found
