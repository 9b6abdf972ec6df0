"""What a run found, in sentences and tables: the same on a terminal and in a notebook."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence

from redteam.answer import BOUND, named, over_victims, sentence, stolen
from redteam.disagreement import disagreements
from redteam.evaluation.results import OverVictims, Results, Verdict
from redteam.notebook import Table, fragment

HEAD = "Theft, the share of what the victim adds to a merge that an attacker gets:"
_SENTENCES = 4  # verdicts up to which each has a sentence of its own; more are counted


def html(results: Results) -> str:
    """What a run found, for a notebook: the answer, its table, what is to be known beside it."""
    return fragment([*found(results), HEAD], tables(results), remarks(results))


def found(results: Results) -> Iterator[str]:
    """The answer in sentences: what holds and what does not, where scenarios disagree, what it was tried on."""
    names = results.about.get("defense", {})
    alone = [verdict for verdict in results.verdicts if verdict.gated and not _in_turn(results, verdict.scenario)]
    over = [row for row in results.over_victims if row.gated]
    if len(over) + len(alone) <= _SENTENCES:
        yield from (over_victims(row, names) for row in over)
        yield from (sentence(verdict, names) for verdict in alone)
    else:
        yield from _counted([*over, *alone], names)
    yield from _disagreeing(results)
    yield from _tried(results)


def tables(results: Results) -> list[Table]:
    """A table for each scenario and threat model, a row for each verdict, those without a protection last.

    Verdicts over several victims stand in front of those on each of them.
    """
    groups: dict[str, list[Verdict | OverVictims]] = {}
    for row in results.over_victims:
        groups.setdefault(f"{row.scenario} under {row.threat}, the worst of all victims", []).append(row)
    for verdict in results.verdicts:
        groups.setdefault(f"{verdict.scenario} under {verdict.threat}", []).append(verdict)
    columns = ("verdict", "defense", "no attack", "worst case", "fidelity", "by")
    return [
        Table(columns, [_row(one) for one in sorted(rows, key=lambda row: not row.gated)], title)
        for title, rows in groups.items()
    ]


def remarks(results: Results) -> Iterator[str]:
    """What is to be known beside the figures, and what failed."""
    yield BOUND
    yield from _imitated(results)
    yield from _failures(results)


def _in_turn(results: Results, scenario: str) -> bool:
    """Whether it is one of several that differ in their victim, which have a row of their own."""
    return any(scenario in row.victims.values() for row in results.over_victims)


def _disagreeing(results: Results) -> Iterator[str]:
    """Where one scenario, or victim, does not speak for another."""
    found = disagreements(results)
    if len(found) <= _SENTENCES:
        yield from (f"Not alike everywhere: {one.told()}." for one in found)
    else:
        names = ", ".join(dict.fromkeys(one.defense for one in found))
        yield f"Not alike everywhere are the verdicts on {names}; see the reports' leaderboard."


def _counted(verdicts: Sequence[Verdict | OverVictims], names: dict[str, str]) -> Iterator[str]:
    """A sentence for each word that was said, with the defenses of which it was."""
    by_word: dict[str, Counter[str]] = {}
    for verdict in verdicts:
        by_word.setdefault(verdict.verdict, Counter())[named(verdict.defense, names)] += 1
    meaning = {
        "BROKEN": "does not protect",
        "INEFFECTIVE": "does not even stop a plain merge",
        "HOLDS-SO-FAR": "held against everything that was tried",
        "INCONCLUSIVE": "is undecided",
    }
    for word, places in sorted(by_word.items(), key=lambda one: -one[1].total()):
        said = ", ".join(name if count == 1 else f"{name} ({count} times)" for name, count in places.items())
        yield f"{places.total()} of {len(verdicts)}: {meaning.get(word, f'cannot be judged ({word})')}. {said}."


def _tried(results: Results) -> Iterator[str]:
    """What it was tried on: scenarios in words, with how many seeds."""
    summaries, groups = results.about.get("scenario", {}), dict[tuple[str, int], dict[str, None]]()
    families = {
        name: f"{row.scenario} ({len(row.victims)} victims)"
        for row in results.over_victims
        for name in row.victims.values()
    }
    for scenario in dict.fromkeys(verdict.scenario for verdict in results.verdicts):
        seeds = len({ground.seed for ground in results.grounds if ground.scenario == scenario})
        named_alike = groups.setdefault((summaries.get(scenario, "").rstrip("."), seeds), {})
        named_alike[families.get(scenario, scenario)] = None
    for (summary, seeds), scenarios in groups.items():
        what = f", {summary[0].lower()}{summary[1:]}" if summary else ""
        yield f"Tried on {', '.join(scenarios)}{what}; {'one seed' if seeds == 1 else f'{seeds} seeds'}."


def _imitated(results: Results) -> Iterator[str]:
    """What answers alone give away: on one scenario the same for every lock that keeps the function."""
    imitated = [str(verdict.imitation) for verdict in results.verdicts if verdict.imitation is not None]
    if imitated:
        found = sorted(set(imitated))
        told = found[0] if len(found) == 1 else f"{found[0]} to {found[-1]}"
        yield (
            f"Whoever only runs the unlocked model, its weights unseen, steals {told} by imitating it; a lock that "
            "keeps its answers leaks that, too."
        )


def _row(verdict: Verdict | OverVictims) -> tuple[str, ...]:
    most, fidelity = stolen(verdict), verdict.fidelity.values()
    return (
        verdict.standing if isinstance(verdict, OverVictims) else verdict.verdict,
        verdict.defense,
        "–" if verdict.protection is None else f"{1 - verdict.protection.mean:.2f}",
        "–" if most is None else str(most),
        f"{min(figure.mean for figure in fidelity):.3f}" if fidelity else "–",
        verdict.attack or "–",
    )


def _failures(results: Results) -> Iterator[str]:
    """What failed where results were expected, each reason once."""
    cells = [(cell.status, cell.reason, cell.attack, cell.defense) for cell in results.cells]
    controls = [(c.status, c.explanation, c.attack or c.control, c.defense) for c in results.controls]
    reasons: dict[tuple[str, str], list[str]] = {}
    for state, reason, attack, defense in (*cells, *controls):
        if state in ("error", "timeout"):
            reasons.setdefault((state, reason), []).append(f"{attack} on {defense}" if defense else attack)
    for (status, reason), places in reasons.items():
        count = "" if len(places) == 1 else f" and {len(places) - 1} more"
        yield f"{status}: {places[0]}{count}: {reason}"
