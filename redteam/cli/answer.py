"""The answer of a run in words: what holds, what does not, and what that was tried on."""

from __future__ import annotations

import io
import textwrap
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from redteam.errors import RedteamError
from redteam.evaluation.results import Results, Verdict
from redteam.evaluation.statistics import Interval
from redteam.plugins.reference import parse_chain
from redteam.threat import threat_model

BOUND = "Theft figures are lower bounds: a stronger attack can only raise them."
_SENTENCES = 4  # verdicts up to which each has a sentence of its own; more are counted


def answer(results: Results, *, verbose: bool = False, width: int = 80) -> str:
    """What a run found: the answer in words, then a line for each defense.

    Args:
        results: What was found.
        verbose: Whether flags, controls and counts follow.
        width: Columns that the text may take.
    """
    names = results.about.get("defense", {})
    told = [verdict for verdict in results.verdicts if verdict.gated]
    sentences = (
        [sentence(verdict, names) for verdict in told] if len(told) <= _SENTENCES else list(_counted(told, names))
    )
    blocks = [
        [textwrap.fill(text, width) for text in (*sentences, *_tried(results))],
        _table(results, width),
        [textwrap.fill(text, width) for text in (BOUND, *_failures(results))],
    ]
    if verbose:
        blocks += [[textwrap.fill(text, width, subsequent_indent="  ") for text in _details(results)]]
    return "\n\n".join("\n".join(block) for block in blocks if block)


def sentence(verdict: Verdict, summaries: dict[str, str] | None = None) -> str:
    """A verdict in a sentence or two.

    Args:
        verdict: What is said.
        summaries: Defense → one line about it, from which its name in words is taken.
    """
    name, most = named(verdict.defense, summaries or {}), worst(verdict)
    if verdict.verdict == "BROKEN" and most is not None:
        time = verdict.cost.get("seconds") if most.attack == verdict.attack else None
        took = "" if time is None else f", in {_seconds(time)} on one core"
        return f"{name} does not protect: {_means(verdict)}, {_share(most.theft.mean)} comes back{took}."
    if verdict.verdict == "INEFFECTIVE" and verdict.protection is not None:
        return (
            f"{name} does not protect: even a plain merge, without any attack, gets "
            f"{_share(1 - verdict.protection.mean)}."
        )
    if verdict.verdict == "HOLDS-SO-FAR" and most is not None:
        return (
            f"{name} held against everything that was tried: {_means(verdict)}, the strongest attack ({most.attack}) "
            f"got {most.theft.mean:.2f} of what the victim adds, at most {most.theft.high:.2f}."
        )
    if verdict.verdict == "INCONCLUSIVE":
        return f"It is open whether {name} protects: {once(verdict.reason)}."
    return f"Nothing can be said about {name}: {once(verdict.reason)}."


@dataclass(frozen=True)
class Worst:
    """The most that was stolen from a defense, and by what."""

    theft: Interval
    attack: str
    merger: str


def worst(verdict: Verdict) -> Worst | None:
    """The most that was stolen, `None` where nothing could be measured."""
    found = [] if verdict.theft is None else [Worst(verdict.theft, verdict.attack, verdict.merger)]
    if (oracle := getattr(verdict, "oracle", None)) is not None:
        found.append(Worst(oracle.theft, oracle.attack, oracle.merger))
    return max(found, key=lambda one: one.theft.mean, default=None)


def named(defense: str, summaries: dict[str, str]) -> str:
    """A defense as its summary calls it, `MergeLock`; chains and those with settings as they are written."""
    (*_, last) = parse_chain(defense)
    head, colon, _ = summaries.get(defense, "").partition(": ")
    plain = defense == last.name and not last.file and not last.settings
    return head if plain and colon and len(head) <= 30 else defense


def once(text: str) -> str:
    """The parts of a sentence between semicolons, each of them once and with its count."""
    parts = Counter(text.split("; "))
    return "; ".join(part if count == 1 else f"{part} ({count} times)" for part, count in parts.items())


def _share(theft: float) -> str:
    return f"{theft:.2f} of what the victim adds"


def _means(verdict: Verdict) -> str:
    try:
        return threat_model(verdict.threat).short
    except RedteamError:  # results of another version
        return f"under {verdict.threat}"


def _seconds(value: float) -> str:
    if value < 0.1:
        return "under 0.1 s"
    return f"{value:.1f} s" if value < 10 else f"{value:.0f} s" if value < 99.5 else f"{value / 60:.0f} min"


def _counted(verdicts: Sequence[Verdict], names: dict[str, str]) -> Iterator[str]:
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
    summaries, groups = results.about.get("scenario", {}), dict[tuple[str, int], list[str]]()
    for scenario in dict.fromkeys(verdict.scenario for verdict in results.verdicts):
        seeds = len({ground.seed for ground in results.grounds if ground.scenario == scenario})
        groups.setdefault((summaries.get(scenario, "").rstrip("."), seeds), []).append(scenario)
    for (summary, seeds), scenarios in groups.items():
        what = f", {summary[0].lower()}{summary[1:]}" if summary else ""
        yield f"Tried on {', '.join(scenarios)}{what}; {'one seed' if seeds == 1 else f'{seeds} seeds'}."


def _table(results: Results, width: int) -> list[str]:
    """One line for each verdict, those without a protection last; a title for each scenario and threat model."""
    from rich.console import Console
    from rich.table import Table

    groups: dict[tuple[str, str], list[Verdict]] = {}
    for verdict in results.verdicts:
        groups.setdefault((verdict.scenario, verdict.threat), []).append(verdict)
    if not groups:
        return []
    table = Table(box=None, pad_edge=False, header_style="", padding=(0, 2, 0, 0))
    table.add_column("verdict", no_wrap=True)
    table.add_column("defense", overflow="fold")
    table.add_column("no attack", justify="right", no_wrap=True)
    table.add_column("worst case", no_wrap=True)
    table.add_column("fidelity", justify="right", no_wrap=True)
    table.add_column("by", overflow="fold")
    titles: list[str] = []
    for (scenario, threat), verdicts in groups.items():
        if len(groups) > 1:
            # A title stands across all columns, which a row of the table cannot.
            table.add_row(f"\0{len(titles)}")
            titles.append(f"{scenario} under {threat}")
        for one in sorted(verdicts, key=lambda verdict: not verdict.gated):
            table.add_row(*_row(one))
    text = io.StringIO()
    Console(file=text, width=width, highlight=False, markup=False, color_system=None).print(table)
    lines = [line.rstrip() for line in text.getvalue().splitlines()]
    printed = [titles[int(line[1:])] if line.startswith("\0") else line for line in lines]
    title = "Theft, the share of what the victim adds to a merge that an attacker gets:"
    return [*textwrap.wrap(title, width), *printed]


def _row(verdict: Verdict) -> tuple[str, ...]:
    most, fidelity = worst(verdict), verdict.fidelity.values()
    return (
        verdict.verdict,
        verdict.defense,
        "–" if verdict.protection is None else f"{1 - verdict.protection.mean:.2f}",
        "–" if most is None else str(most.theft),
        f"{min(figure.mean for figure in fidelity):.3f}" if fidelity else "–",
        "–" if most is None else most.attack,
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


def _details(results: Results) -> Iterator[str]:
    """Flags, controls and counts."""
    for name, flag in results.flags.items():
        places = dict.fromkeys(v.defense for v in results.verdicts if name in v.flags)
        yield f"{name} ({', '.join(places)}): {flag.means}."
    for verdict in results.verdicts:
        yield f"{verdict.verdict} {verdict.defense} under {verdict.threat}: {once(verdict.reason)}."
    failed = Counter(
        (control.control, control.attack, control.explanation) for control in results.controls if not control.passed
    )
    for (control, attack, explanation), count in failed.items():
        times = f" ({count} times)" if count > 1 else ""
        yield f"control failed: {' '.join(filter(None, (control, attack)))}: {explanation}{times}"
    counts = f"{len(results.cells)} cells, {len(results.controls)} controls"
    yield f"{counts} ({sum(not control.passed for control in results.controls)} failed)."
