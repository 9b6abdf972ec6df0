"""What figures and verdicts are in words, the same in every format. Names stand in backquotes."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from redteam import answer
from redteam.evaluation.results import Beside, Control, Coverage, Figure, Price, Results, Span, Verdict, WholeMerge
from redteam.evaluation.statistics import Interval
from redteam.threat import THREAT_MODELS, threat_model

THEFT = (
    "Theft is the share of what the victim adds to the merge that the attacker gets, less what their own tasks lose: "
    "0 nothing, 1 all. Verdicts speak of the worst case over all attacks, mergers and keys that were tried. Where an "
    "attack uses the victim's data, only its advantage over the same attack from the base counts."
)

MEANING = {
    "UNSCORABLE": "the scores of this scenario cannot be trusted for it",
    "INEFFECTIVE": "it does not stop a merge that uses no attack at all",
    "BROKEN": "under at least one seed an attack surely gets half or more of what the victim adds",
    "INVALID": "there is no evidence that the attacks behind it work",
    "HOLDS-SO-FAR": "no attack that was tried gets half under any seed, and those made for it were shown to work",
    "INCONCLUSIVE": "the figures decide neither way",
}

SHOWS = {
    "gain": "the victim adds something to the merge that could be stolen",
    "trivial": "an attacker who uses nothing of the victim, or guesses the key, steals nothing",
    "floor": "nothing is stolen from a victim that has nothing",
    "gone": "nothing is stolen where the victim's information is gone from the weights",
    "ceiling": "the score can be reached: the key's holder, or training anew, reaches it",
    "planted": "an attack undoes the locks that it claims to undo, planted one by one",
    "extent": "an attack undoes a planted lock as wide as the judged one, and all that it claims to undo at once",
    "weakened": "an attack made for a defense breaks a weaker variant of it",
    "harmless": "an attack spoils no model that was not locked",
    "monotone": "more budget or knowledge does not steal less; a failure is a warning",
}

UNITS = {"seconds": "CPU seconds", "labels": "labels", "steps": "steps"}

ROLES = {
    "naive": "no attack",
    "recovery": "",
    "guess": "a guessed key",
    "trivial": "must steal nothing",
    "ceiling": "must get everything",
    "anew": "training anew",
    "interface": "answers alone: the line",
}


@dataclass(frozen=True)
class Fact:
    """One line about a verdict."""

    label: str
    text: str


def number(value: float | None, digits: int = 2) -> str:
    """A figure for a table, `–` where there is none."""
    if value is None:
        return "–"
    small = value != 0 and abs(value) < 0.5 * 10**-digits
    return f"{value:.{digits}g}" if abs(value) >= 1000 or small else f"{value:.{digits}f}"


def interval(value: Interval | None, digits: int = 2) -> str:
    """`0.58 [0.52, 0.65]`, `–` where there is none."""
    if value is None:
        return "–"
    return f"{value.mean:.{digits}f} [{value.low:.{digits}f}, {value.high:.{digits}f}]"


def over(value: Interval) -> str:
    """What an interval is taken over."""
    if value.over == "seeds":
        return f"95 % interval over {value.seeds} seeds"
    if value.over.startswith("seeds"):
        return f"preliminary: the widest interval of {value.seeds} seeds"
    return f"95 % interval over {value.over}, one seed"


def through(verdict: Verdict) -> str:
    """By which attack, on how many seeds where there are several, and with which merger; empty where there is none."""
    if not verdict.attack:
        return ""
    several = [f"`{name}` on {answer.plural(count, 'seed')}" for name, count in verdict.by.items()]
    attacks = ", ".join(several) if len(several) > 1 else f"`{verdict.attack}`"
    return f" by {attacks} with `{verdict.merger}`"


def keys(count: int) -> str:
    """How keys entered."""
    return "one key" if count == 1 else f"the worst of {count} keys"


def many(values: Mapping[str, float | None], digits: int = 2) -> str:
    """Name and figure, side by side."""
    return " ".join(f"{name} {number(value, digits)}" for name, value in values.items())


def sealed(threats: Iterable[str]) -> bool:
    """Whether one of these threat models is of what does not run alone."""
    known = (name for name in THREAT_MODELS if threat_model(name).sealed)
    return not {threat.partition(":")[0] for threat in threats}.isdisjoint(known)


def fidelity(results: Results) -> str:
    """Whose fidelity it is, in a sentence with a space before it, where a run has what does not run alone."""
    return " What is sealed does not run alone; there it is that of whoever holds the key." * sealed(results.threats)


def facts(verdict: Verdict) -> list[Fact]:
    """What a verdict rests on, theft first."""
    made = []
    if verdict.theft is not None:
        made.append(Fact("Theft", f"{verdict.theft}{through(verdict)}; {over(verdict.theft)}, {keys(verdict.keys)}"))
        if 0 < verdict.fallen < verdict.theft.seeds:
            made.append(Fact("Falls", f"surely on {verdict.fallen} of {verdict.theft.seeds} seeds"))
    if verdict.advantage is not None:
        made.append(
            Fact("Advantage", f"{verdict.advantage} more than the same attack with the same budget from the base")
        )
    if verdict.counted is not None and verdict.counted != verdict.theft:
        made.append(Fact("Counted", f"{verdict.counted} of the theft, since the attack uses the victim's data"))
    if verdict.seen is not None and verdict.seen.theft != verdict.theft:
        seen = verdict.seen
        made.append(Fact("By what an attacker sees", f"{seen.theft} by `{seen.attack}` with `{seen.merger}`"))
    if verdict.broke_first:
        made.append(Fact("Cheapest that breaks it", f"`{verdict.broke_first}`"))
    if verdict.protection is not None:
        made.append(Fact("Protection", f"{verdict.protection} from a merge without any attack"))
    if verdict.imitation is not None:
        made.append(Fact("Answers alone", f"{verdict.imitation} by imitation, which no protection of weights can keep"))
    if verdict.beyond is not None:
        made.append(Fact("Beyond imitation", f"{verdict.beyond} leaks from the weights"))
    if verdict.fidelity:
        told = ", ".join(f"{dtype} {interval(value, 3)}" for dtype, value in verdict.fidelity.items())
        whose = ", as whoever holds the key runs it" if sealed([verdict.threat]) else ""
        made.append(Fact("Fidelity", f"{told} of the victim's own accuracy{whose}"))
    if verdict.price is not None:
        made.append(Fact("Price", price(verdict.price)))
    spent = [f"{amount(v)} {UNITS.get(u, u)}" for u, v in verdict.cost.items() if v is not None and u in UNITS]
    if spent:
        made.append(Fact("Cost of the attack", ", ".join(spent)))
    return made


def by_seed(results: Results, verdict: Verdict) -> str:
    """The worst case seed by seed, each with its own interval over test items; empty for one seed."""
    worst = next((f for f in results.figures if f.place == verdict.place and f.choice == "worst"), None)
    if worst is None or len(worst.per_seed) < 2:
        return ""
    return "; ".join(
        f"{one.seed}: {one.counted:.2f} [{one.low:.2f}, {one.high:.2f}] by `{one.attack}`" for one in worst.per_seed
    )


WHOLE = (
    "Some mergers merge nothing away: they keep every expert whole, as a mask for each task or behind a router, and "
    "store and run what that takes. They are tried on every lock as the others are, and no verdict counts them. "
    "Stored: bytes over one model's, the base among them. Inference: CPU time of a forward pass over one model's."
)


def whole(results: Results) -> list[tuple[str, list[WholeMerge]]]:
    """Scenario and threat model in words, and what mergers that keep every expert whole made of its defenses."""
    found: dict[str, list[WholeMerge]] = {}
    for row in results.whole:
        found.setdefault(f"{row.scenario}, {row.threat}", []).append(row)
    return list(found.items())


def times(value: float | None) -> str:
    """`2.09 ×`, `–` where there is none."""
    return "–" if value is None else f"{value:.2f} ×"


def price(value: Price) -> str:
    """What the cheapest attack that steals nearly everything costs, against training anew."""
    if value.censored:
        return "censored: no attack that was tried gets nine tenths"
    parts = []
    for unit, ratio in value.ratio.items():
        if ratio is None:
            continue
        paid, anew = value.paid.get(unit), value.anew.get(unit)
        against = "" if paid is None or anew is None else f" ({span(paid)} against {span(anew)})"
        parts.append(f"{span(ratio)} of the {UNITS.get(unit, unit)}{against}")
    told = ", ".join(parts) or "an unknown share"
    return f"`{value.attack}` with `{value.merger}` gets nine tenths for {told} of training such an expert anew"


def ratios(value: Price | None) -> str:
    """The same for a table: `0.0034 of the CPU seconds, 0 of the labels`."""
    if value is None:
        return "–"
    if value.censored:
        return "censored"
    told = [f"{amount(r.mean)} of the {UNITS.get(unit, unit)}" for unit, r in value.ratio.items() if r is not None]
    return ", ".join(told) or "–"


def span(value: Span | None) -> str:
    """`0.0021 to 0.006` over seeds, one number where they agree, `–` where there is none."""
    if value is None:
        return "–"
    low, high = amount(value.low), amount(value.high)
    return low if low == high else f"{low} to {high}"


def coverage(value: Coverage | None) -> str:
    """How much of what was planned was judged."""
    if value is None:
        return ""
    share = f" ({value.judged / value.planned:.0%})" if value.planned else ""
    lost = f"{value.errors} errors, {value.timeouts} timeouts, {value.skipped} skipped"
    return f"{value.judged} of {value.planned} planned cells were judged{share}: {lost}. None of these count as robust."


def outcome(control: Control) -> str:
    """`passed`, `failed`, `in part`, `warns`, or what became of it."""
    if control.status != "ok":
        return control.status
    if control.passed:
        return "passed"
    return "warns" if control.warning else "in part" if control.partial else "failed"


def doubts(results: Results, verdict: Verdict) -> list[Control]:
    """The controls that did not pass and change how the verdict is to be read."""
    return [results.controls[k] for k in verdict.rests_on if not results.controls[k].passed]


def about(control: Control) -> str:
    """What a control was of."""
    attack = f"`{control.attack}`" if control.attack else ""
    return " ".join(part for part in (attack, control.group, control.site) if part) or "–"


def counted_beside(results: Results) -> dict[str, tuple[str, ...]]:
    """Scenario → the names of what its victim task counts, where that is more than its score."""
    names: dict[str, dict[str, None]] = {}
    for row in results.beside:
        names.setdefault(row.scenario, {}).update(dict.fromkeys(row.figures))
    return {scenario: tuple(held) for scenario, held in names.items()}


def beside(row: Beside) -> str:
    """Of which model or merge a row is."""
    merged = f", merged with `{row.merger}`" if row.merger else ""
    under = f", {row.threat}" if row.threat else ""
    attacked = f" after `{row.attack}`" if row.attack and row.attack != "none" else ""
    told = {
        "victim": "the victim alone",
        "without": "the companions, without the victim",
        "unlocked": "all unlocked",
        "locked": f"`{row.defense}`, no attack",
        "worst": f"`{row.defense}` in the worst case{attacked}",
    }
    return f"{told[row.what]}{merged}{under}"


def unlucky(figures: Iterable[Figure]) -> list[str]:
    """Sentences on figures that are missing, those that fail alike in one."""
    lost: dict[str, list[str]] = {}
    for figure in figures:
        if figure.theft is None:
            told = f"{figure.status}, {figure.reason or 'no reason given'}"
            lost.setdefault(told, []).append(f"`{figure.attack}` on `{figure.defense}`")
    return [f"{', '.join(dict.fromkeys(pairs))}: {told}" for told, pairs in lost.items()]


def tested(results: Results) -> list[Fact]:
    """What was tested, by whom and on what: what stands beside the picture. Only what is known."""
    made = [
        Fact("Scenario", answer.tried(results, name)) for name in dict.fromkeys(v.scenario for v in results.verdicts)
    ]
    made += [Fact("Put together", f"{line}.") for line in together(results)]
    for number, one in enumerate(results.runs, 1):
        made += [Fact(f"{fact.label}, run {number}", fact.text) for fact in _run(one.environment)]
    if not results.runs:
        made += _run(results.environment)
    if results.coverage is not None:
        made.append(Fact("Coverage", coverage(results.coverage)))
    return made


def together(results: Results) -> list[str]:
    """Of what runs the results were put together, and in what these differ; nothing for one run."""
    if not results.runs:
        return []
    told = "; ".join(f"`{one.plan}` on {', '.join(f'`{name}`' for name in one.scenarios)}" for one in results.runs)
    lines = [f"{len(results.runs)} runs side by side, each with the verdicts that it had: {told}"]
    keys = ("engine", "torch", "transformers", "numpy", "scipy", "device")
    differ = [key for key in keys if len({str(one.environment.get(key, "")) for one in results.runs}) > 1]
    if differ:
        commits = " and ".join(dict.fromkeys(str(one.environment.get("commit") or "unknown") for one in results.runs))
        names = ", ".join({"engine": f"this program (commits {commits})"}.get(key, key) for key in differ)
        lines.append(f"They differ in {names}, so that what both had computed need not agree to the last digit")
    return lines


def _run(environment: Mapping[str, Any]) -> list[Fact]:
    """When, where and on which versions one run was done."""
    made = []
    if "date" in environment:
        took = f", took {answer.duration(float(environment['duration']))}" if "duration" in environment else ""
        made.append(Fact("Run", f"{str(environment['date'])[:16].replace('T', ' ')}{took}"))
    machine = [str(environment[key]) for key in ("system", "machine", "cpu") if environment.get(key)]
    if machine:
        made.append(Fact("Machine", f"{', '.join(machine)}, on {environment.get('device', 'cpu')}"))
    versions = [
        f"{name} {environment[name]}"
        for name in ("redteam", "python", "torch", "transformers", "numpy", "scipy")
        if environment.get(name)
    ]
    made.append(Fact("Versions", ", ".join(versions) or "–"))
    if environment.get("commit"):
        commit = str(environment["commit"])[:12]
        made.append(Fact("Commit", f"`{commit}`; to install it: `git checkout {commit} && make` in a clone"))
    return made


def untested(results: Results) -> tuple[str, ...]:
    """What was not tested, never nothing."""
    return results.untested or ("everything that this plan does not name: other scenarios, attacks and mergers",)


def amount(value: float) -> str:
    """A cost with two digits, or whole where it is large."""
    return f"{value:,.0f}" if abs(value) >= 100 or value == int(value) else f"{value:.2g}"
