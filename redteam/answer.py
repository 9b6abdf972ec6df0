"""The answer in words, for someone who has to decide: the same sentences on the terminal and in every report."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping

from redteam.errors import BadInput, RedteamError
from redteam.evaluation.results import OverVictims, Results, Verdict
from redteam.evaluation.rows import Placed
from redteam.evaluation.statistics import Interval
from redteam.plugins.reference import parse_chain
from redteam.threat import threat_model

BOUND = "Theft figures are lower bounds: a stronger attack can only raise them."
_COUNTS = ("no", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine", "ten")


def sentence(verdict: Verdict, summaries: Mapping[str, str] | None = None) -> str:
    """A verdict in a sentence or two, for a reader who knows none of the terms.

    Args:
        verdict: What is said.
        summaries: Defense → one line about it, from which its name in words is taken.
    """
    name, theft = named(verdict.defense, summaries or {}), stolen(verdict)
    if verdict.verdict == "BROKEN" and theft is not None:
        beyond = ", beyond what the same data buy without the victim," if verdict.advantage is not None else ""
        seconds = verdict.cost.get("seconds")
        took = "" if seconds is None else f", in {duration(seconds)} on one core"
        if "SOMETIMES" in verdict.flags:
            return (
                f"{name} does not protect every model: {means(verdict)}, half or more of what the victim adds comes "
                f"back{beyond.removesuffix(',')} on {verdict.fallen} of {plural(theft.seeds, 'seed')}{took}."
            )
        return f"{name} does not protect: {means(verdict)}, {_share(theft.mean)}{beyond} comes back{took}."
    if verdict.verdict == "INEFFECTIVE" and verdict.protection is not None:
        plain = _share(1 - verdict.protection.mean)
        if not verdict.gated:
            return f"{name}: a plain merge gets {plain}."
        return f"{name} does not protect: even a plain merge, without any attack, gets {plain}."
    if verdict.verdict == "HOLDS-SO-FAR" and theft is not None:
        helpless = verdict.protection is not None and round(theft.mean, 2) <= round(1 - verdict.protection.mean, 2)
        who = "no attack got more than a plain merge:" if helpless else f"the strongest attack ({verdict.attack}) got"
        return (
            f"{name} held against everything that was tried: {means(verdict)}, {who} {theft.mean:.2f} of what the "
            f"victim adds, at most {theft.high:.2f}."
        )
    if verdict.verdict == "INCONCLUSIVE":
        return f"It is open whether {name} protects: {once(verdict.reason)}."
    return f"Nothing can be said about {name}: {once(verdict.reason)}."


def over_victims(row: OverVictims, summaries: Mapping[str, str] | None = None) -> str:
    """The verdict over several victims in turn in a sentence, with those that are left out.

    Args:
        row: What is said.
        summaries: See `sentence`.
    """
    name, theft, judged = named(row.defense, summaries or {}), stolen(row), len(row.judged)
    gone = f" Left out, for adding too little to a merge: {', '.join(row.left_out)}."
    left_out = gone if row.left_out and judged else ""
    if row.fallen and theft is not None:
        every = "" if len(row.fallen) == judged else " every victim"
        how = "even by a plain merge, without any attack" if row.verdict == "INEFFECTIVE" else means(row)
        which = f" ({', '.join(row.fallen)})" if every else ""
        return (
            f"{name} does not protect{every}: {how}, half or more of what the victim adds is stolen on "
            f"{len(row.fallen)} of {judged} victims{which}; {theft.mean:.2f} in the worst case, "
            f"{next(iter(row.by))}.{left_out}"
        )
    if row.verdict == "HOLDS-SO-FAR" and theft is not None:
        return (
            f"{name} held against everything that was tried on each of {plural(judged, 'victim')}: {means(row)}, "
            f"{theft.mean:.2f} of what the victim adds was stolen in the worst case, {next(iter(row.by))}.{left_out}"
        )
    if row.verdict == "INCONCLUSIVE":
        return f"It is open whether {name} protects whichever task is the victim: {row.reason}."
    return f"Nothing can be said about {name}: {row.reason}."


def tried(results: Results, scenario: str) -> str:
    """What the verdicts of a scenario were reached on: the scenario in words, and how many seeds."""
    summary = results.about.get("scenario", {}).get(scenario, "").rstrip(".")
    seeds = len({ground.seed for ground in results.grounds if ground.scenario == scenario})
    what = f", {summary[0].lower()}{summary[1:]}" if summary else ""
    return f"{scenario}{what}; {plural(seeds, 'seed')}"


def stolen(verdict: Verdict | OverVictims) -> Interval | None:
    """What the verdict counts as stolen in the worst case, `None` where nothing could be measured."""
    return verdict.counted or verdict.theft


def named(defense: str, summaries: Mapping[str, str]) -> str:
    """A defense as its summary calls it, `MergeLock`; chains and those with settings as they are written."""
    try:
        (*_, last) = parse_chain(defense)
    except BadInput:
        return defense
    head, colon, _ = summaries.get(defense, "").partition(": ")
    plain = defense == last.name and not last.file and not last.settings
    return head if plain and colon and len(head) <= 30 else defense


def means(verdict: Placed) -> str:
    """What the attacker works from, as a phrase."""
    try:
        return threat_model(verdict.threat).short
    except RedteamError:  # results of another version
        return f"under {verdict.threat}"


def once(text: str) -> str:
    """The parts of a sentence between semicolons, each of them once and with its count."""
    parts = Counter(text.split("; "))
    return "; ".join(part if count == 1 else f"{part} ({count} times)" for part, count in parts.items())


def plural(number: int, noun: str) -> str:
    """`one seed`, `two seeds`, `12 seeds`."""
    return f"{_COUNTS[number] if 0 <= number < len(_COUNTS) else number} {noun}{'' if number == 1 else 's'}"


def duration(seconds: float) -> str:
    """`under 0.1 s`, `0.2 s`, `45 s`, `12 min`, `3.1 h`."""
    if seconds < 0.1:
        return "under 0.1 s"
    if seconds < 99.5:
        return f"{seconds:.1f} s" if seconds < 10 else f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 5400 else f"{seconds / 3600:.1f} h"


def _share(theft: float) -> str:
    return f"{theft:.2f} of what the victim adds"
