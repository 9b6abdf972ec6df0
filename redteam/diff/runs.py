"""Two runs compared: words that changed, figures whose intervals part, what only one of them has."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

from redteam.diff.findings import ControlChange, Entry, OnlyIn, Parted, RunDiff, VerdictChange
from redteam.errors import BadInput
from redteam.evaluation.results import OverVictims, Results, Verdict
from redteam.evaluation.rows import Model
from redteam.evaluation.statistics import Interval
from redteam.evaluation.submission import comparable

_TIMES = ("date", "duration")  # of the environment, which no figure depends on
_TABLES: Mapping[str, tuple[str, ...]] = {
    "verdicts": ("scenario", "defense", "threat"),
    "over_victims": ("scenario", "defense", "threat"),
    "figures": ("scenario", "defense", "threat", "attack", "role", "merger"),
    "by_merger": ("scenario", "defense", "threat", "merger"),
    "whole": ("scenario", "defense", "threat", "merger"),
}
"""Table → what tells its rows apart."""
_CONTROL = ("control", "scenario", "defense", "threat", "attack", "site", "group")


def diff_runs(one: Results, other: Results, *, names: tuple[str, str] = ("A", "B")) -> RunDiff:
    """Compares two runs row by row, whatever the order of rows.

    Args:
        one: The run that is compared with, such as last week's.
        other: The run that is looked at.
        names: What they are called.

    Raises:
        BadInput: If they have no verdict on the same place, so that nothing would be compared.
    """
    mine, theirs = _words(one), _words(other)
    if not mine.keys() & theirs.keys():
        raise BadInput(
            f"{names[0]} and {names[1]} judge no defense in the same scenario under the same threat model, so that "
            "nothing can be compared; name two runs that share some of their plan."
        )
    parted, compared, moved = _figures(one, other)
    return RunDiff(
        a=names[0],
        b=names[1],
        verdicts=tuple(_changed(mine, theirs)),
        figures=parted,
        compared=compared,
        moved=moved,
        controls=tuple(_controls(one, other)),
        only_a=tuple(_only(one, other)),
        only_b=tuple(_only(other, one)),
        plan=tuple(_entries(*comparable(one.plan, other.plan))),
        engine=tuple(_entries(_made_by(one), _made_by(other))),
        agreeing=sum(mine[place].verdict == theirs[place].verdict for place in mine if place in theirs),
    )


def _words(results: Results) -> dict[tuple[str, ...], Verdict | OverVictims]:
    """Every verdict by its place; one over several victims has the family's name for a scenario."""
    rows: list[Verdict | OverVictims] = [*results.over_victims, *results.verdicts]
    return {(row.scenario, row.defense, row.threat): row for row in rows}


def _changed(
    mine: Mapping[tuple[str, ...], Verdict | OverVictims], theirs: Mapping[tuple[str, ...], Verdict | OverVictims]
) -> Iterator[VerdictChange]:
    for place, before in mine.items():
        after = theirs.get(place)
        if after is None:
            continue
        flags = [set(v.flags) if isinstance(v, Verdict) else set() for v in (before, after)]
        if before.verdict == after.verdict and flags[0] == flags[1]:
            continue
        scenario, defense, threat = place
        yield VerdictChange(
            scenario=scenario,
            defense=defense,
            threat=threat,
            before=before.verdict,
            after=after.verdict,
            raised=tuple(sorted(flags[1] - flags[0])),
            dropped=tuple(sorted(flags[0] - flags[1])),
            reason=after.reason,
            counts=before.verdict != after.verdict and (before.gated or after.gated),
        )


def _figures(one: Results, other: Results) -> tuple[tuple[Parted, ...], int, int]:
    """Figures whose intervals have no point in common, how many were compared, and how many of these differ at all."""
    parted, compared, moved = [], 0, 0
    for table, keys in _TABLES.items():
        mine, theirs = (_rows(results, table, keys) for results in (one, other))
        for key in (key for key in mine if key in theirs):
            there = dict(_intervals(theirs[key]))
            for name, here in _intervals(mine[key]):
                if (found := there.get(name)) is None:
                    continue
                compared += 1
                moved += here != found
                if here.high < found.low or found.high < here.low:
                    told = dict(zip(keys, key, strict=True))
                    told.pop("role", None)
                    parted.append(Parted(table=table, figure=name, before=here, after=found, **told))
    return tuple(parted), compared, moved


def _rows(results: Results, table: str, keys: tuple[str, ...]) -> dict[tuple[str, ...], Model]:
    """Rows by what tells them apart. Choices over attacks are left out of the figures: verdicts have them."""
    rows: Iterable[Any] = getattr(results, table)
    if table == "figures":
        rows = (row for row in rows if row.choice == "attack")
    return {tuple(getattr(row, key) for key in keys): row for row in rows}


def _intervals(row: Model) -> Iterator[tuple[str, Interval]]:
    """Name → figure of a row; what verdicts count only where it is something of its own."""
    for name in type(row).model_fields:
        value = getattr(row, name)
        if isinstance(value, Interval) and not (name == "counted" and value == getattr(row, "theft", None)):
            yield name, value
        elif isinstance(value, dict):
            yield from ((f"{name}.{key}", one) for key, one in value.items() if isinstance(one, Interval))


def _controls(one: Results, other: Results) -> Iterator[ControlChange]:
    mine, theirs = _passed(one), _passed(other)
    for key, before in mine.items():
        after = theirs.get(key)
        if after is not None and after[False] != before[False]:
            yield ControlChange(
                **dict(zip(_CONTROL, key, strict=True)),
                before=_outcome(before),
                after=_outcome(after),
            )


def _passed(results: Results) -> dict[tuple[str, ...], Counter[bool]]:
    """Identity of a control → how many of it passed and failed; there is one of most."""
    found: dict[tuple[str, ...], Counter[bool]] = {}
    for control in results.controls:
        key = tuple(str(getattr(control, name)) for name in _CONTROL)
        found.setdefault(key, Counter())[control.passed] += 1
    return found


def _outcome(found: Counter[bool]) -> str:
    if found.total() == 1:
        return "passed" if found[True] else "failed"
    return f"{found[True]} of {found.total()} passed"


def _only(one: Results, other: Results) -> Iterator[OnlyIn]:
    """Rows that one run has and the other has not: verdicts, and attacks at places that both judge."""
    mine, theirs = _words(one), _words(other)
    for place in mine:
        if place not in theirs:
            yield OnlyIn(scenario=place[0], defense=place[1], threat=place[2])
    keys = _TABLES["figures"]
    there = _rows(other, "figures", keys)
    for key in _rows(one, "figures", keys):
        if key not in there and key[:3] in theirs:
            scenario, defense, threat, attack, _, merger = key
            yield OnlyIn(scenario=scenario, defense=defense, threat=threat, attack=attack, merger=merger)


def _entries(one: Mapping[str, Any], other: Mapping[str, Any]) -> Iterator[Entry]:
    """What stands under one name and is not the same; of lists what only one of them has."""
    for key in dict.fromkeys((*one, *other)):
        before, after = one.get(key), other.get(key)
        if before == after:
            continue
        if isinstance(before, (list, tuple)) and isinstance(after, (list, tuple)):
            mine, theirs = ([str(x) for x in values] for values in (before, after))
            gone, new = [x for x in mine if x not in theirs], [x for x in theirs if x not in mine]
            if gone or new:
                yield Entry(name=key, a=", ".join(gone), b=", ".join(new))
            else:
                yield Entry(name=f"{key} (in another order)", a=", ".join(mine), b=", ".join(theirs))
        else:
            yield Entry(name=key, a=_text(before), b=_text(after))


def _made_by(results: Results) -> dict[str, Any]:
    """What figures depend on beside the plan: the program, libraries, limits, machine, and scenarios' contents."""
    environment = {key: value for key, value in results.environment.items() if key not in _TIMES}
    scenarios = {f"scenario {g.scenario}, seed {g.seed}": g.digest for g in results.grounds}
    return {**environment, **{f"limit {key}": value for key, value in results.thresholds.items()}, **scenarios}


def _text(value: Any) -> str:
    return "" if value is None else str(value)
