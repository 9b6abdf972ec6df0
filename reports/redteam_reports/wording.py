"""What figures and verdicts are in words, the same in every format. Names stand in backquotes."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from redteam.evaluation.results import Control, Coverage, Figure, Price, Results, Verdict
from redteam.evaluation.statistics import Interval

BOUND = "Theft figures are lower bounds: a stronger attack can only raise them."

THEFT = (
    "Theft is the share of what the victim adds to the merge that the attacker gets: 0 none, 1 all. Where the attack "
    "uses the victim's data, only its advantage over the same attack with the same budget from the base counts."
)

MEANING = {
    "UNSCORABLE": "the scores of this scenario cannot be trusted for it",
    "INEFFECTIVE": "it does not stop a merge that uses no attack at all",
    "BROKEN": "an attack gets back half or more of what the victim adds",
    "INVALID": "there is no evidence that the attacks behind it work",
    "HOLDS-SO-FAR": "no attack that was tried gets half, and those attacks were shown to work",
    "INCONCLUSIVE": "the figures decide neither way",
}

SHOWS = {
    "gain": "the victim adds something to the merge that could be stolen",
    "trivial": "an attacker who uses nothing of the victim, or guesses the key, steals nothing",
    "floor": "nothing is stolen from a victim that has nothing",
    "ceiling": "the score can be reached: the key's holder, or training anew, reaches it",
    "planted": "an attack undoes the locks that it claims to undo, planted one by one",
    "weakened": "an attack made for a defense breaks a weaker variant of it",
    "harmless": "an attack spoils no model that was not locked",
    "monotone": "more budget or knowledge does not steal less; a failure is a warning",
}

ROLES = {
    "naive": "no attack",
    "recovery": "",
    "trivial": "must steal nothing",
    "ceiling": "must steal everything",
    "anew": "training anew",
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
    """By which attack, of a gauntlet through which members, and with which merger; empty where there is none."""
    if not verdict.attack:
        return ""
    several = len(verdict.by) > 1
    members = ", ".join(f"`{name}`{f' {count}×' if several else ''}" for name, count in verdict.by.items())
    return f" by `{verdict.attack}`{f' ({members})' if members else ''} with `{verdict.merger}`"


def keys(count: int) -> str:
    """How keys entered."""
    return "one key" if count == 1 else f"the worst of {count} keys"


def many(values: Mapping[str, float | None], digits: int = 2) -> str:
    """Name and figure, side by side."""
    return " ".join(f"{name} {number(value, digits)}" for name, value in values.items())


def facts(verdict: Verdict) -> list[Fact]:
    """What a verdict rests on, theft first."""
    made = []
    if verdict.theft is not None:
        made.append(Fact("Theft", f"{verdict.theft}{through(verdict)}; {over(verdict.theft)}, {keys(verdict.keys)}"))
    if verdict.advantage is not None:
        made.append(
            Fact("Advantage", f"{verdict.advantage} more than the same attack with the same budget from the base")
        )
    if verdict.counted is not None and verdict.counted != verdict.theft:
        made.append(Fact("Counted", f"{verdict.counted} of the theft, since the attack uses the victim's data"))
    if verdict.oracle is not None:
        best = verdict.oracle
        made.append(Fact("Best on the scoring data", f"{best.theft} by `{best.attack}` with `{best.merger}`"))
    if verdict.broke_first:
        made.append(Fact("Cheapest that breaks it", f"`{verdict.broke_first}`"))
    if verdict.protection is not None:
        made.append(Fact("Protection", f"{verdict.protection} from a merge without any attack"))
    if verdict.fidelity:
        told = ", ".join(f"{dtype} {interval(value, 3)}" for dtype, value in verdict.fidelity.items())
        made.append(Fact("Fidelity", f"{told} of the victim's own accuracy"))
    if verdict.price is not None:
        made.append(Fact("Price", price(verdict.price)))
    spent = {unit: value for unit, value in verdict.cost.items() if value is not None}
    if spent:
        made.append(Fact("Cost of the attack", ", ".join(f"{_amount(v)} {unit}" for unit, v in spent.items())))
    return made


def price(value: Price) -> str:
    """What the cheapest attack that steals nearly everything costs, against training anew."""
    if value.censored:
        return "censored: no attack that was tried gets nine tenths"
    parts = []
    for unit, ratio in value.ratio.items():
        if ratio is None:
            continue
        paid, anew = value.paid.get(unit), value.anew.get(unit)
        against = "" if paid is None or anew is None else f" ({_amount(paid)} against {_amount(anew)})"
        parts.append(f"{_amount(ratio)} of the {unit}{against}")
    told = ", ".join(parts) or "an unknown share"
    return f"`{value.attack}` with `{value.merger}` gets nine tenths for {told} of training such an expert anew"


def coverage(value: Coverage | None) -> str:
    """How much of what was planned was judged."""
    if value is None:
        return ""
    share = f" ({value.judged / value.planned:.0%})" if value.planned else ""
    lost = f"{value.errors} errors, {value.timeouts} timeouts, {value.skipped} skipped"
    return f"{value.judged} of {value.planned} planned cells were judged{share}: {lost}. None of these count as robust."


def outcome(control: Control) -> str:
    """`passed`, `failed`, `warns`, or what became of it."""
    if control.status != "ok":
        return control.status
    return "passed" if control.passed else "warns" if control.warning else "failed"


def about(control: Control) -> str:
    """What a control was of."""
    attack = f"`{control.attack}`" if control.attack else ""
    return " ".join(part for part in (attack, control.group, control.site) if part) or "–"


def unlucky(figures: Iterable[Figure]) -> list[str]:
    """Sentences on figures that are missing."""
    told = (
        f"`{f.attack}` on `{f.defense}`: {f.status}, {f.reason or 'no reason given'}" for f in figures if not f.theft
    )
    return list(dict.fromkeys(told))


def untested(results: Results) -> tuple[str, ...]:
    """What was not tested, never nothing."""
    return results.untested or ("everything that this plan does not name: other scenarios, attacks and mergers",)


def _amount(value: float) -> str:
    return f"{value:,.0f}" if abs(value) >= 100 or value == int(value) else f"{value:.2g}"
