"""The answer of a run in words: what holds, what does not, and what that was tried on."""

from __future__ import annotations

import io
import re
import textwrap
from collections import Counter
from collections.abc import Iterator, Sequence

from redteam import answer as words
from redteam.answer import BOUND, named, once, sentence, stolen
from redteam.disagreement import disagreements
from redteam.evaluation.results import OverVictims, Results, Verdict

_FIGURES = 56  # columns of the table that all but the names of defense and attack take
_NAME, _LONGEST = 12, 14  # columns that most names of defenses need, and that they get at most
_PART = re.compile(r"[^-+:=,_]+[-+:=,_]*|[-+:=,_]+")
_SENTENCES = 4  # verdicts up to which each has a sentence of its own; more are counted


def answer(results: Results, *, verbose: bool = False, width: int = 80) -> str:
    """What a run found: the answer in words, then a line for each defense.

    Args:
        results: What was found.
        verbose: Whether flags, controls and counts follow.
        width: Columns that the text may take.
    """
    names = results.about.get("defense", {})
    alone = [verdict for verdict in results.verdicts if verdict.gated and not _in_turn(results, verdict.scenario)]
    over = [row for row in results.over_victims if row.gated]
    sentences = (
        [*(words.over_victims(row, names) for row in over), *(sentence(verdict, names) for verdict in alone)]
        if len(over) + len(alone) <= _SENTENCES
        else list(_counted([*over, *alone], names))
    )
    blocks = [
        [_folded(text, width) for text in (*sentences, *_disagreeing(results), *_tried(results))],
        _table(results, width),
        [_folded(text, width) for text in (BOUND, *_line(results), *_failures(results))],
    ]
    if verbose:
        blocks += [[_folded(text, width, "  ") for text in _details(results)]]
    return "\n\n".join("\n".join(block) for block in blocks if block)


def _folded(text: str, width: int, indent: str = "") -> str:
    """Lines of a paragraph; names keep their hyphens on one line."""
    return textwrap.fill(text, width, break_on_hyphens=False, break_long_words=False, subsequent_indent=indent)


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


def _table(results: Results, width: int) -> list[str]:
    """One line for each verdict, those without a protection last; a title for each scenario and threat model.

    Verdicts over several victims stand in front of those on each of them.
    """
    from rich.console import Console
    from rich.table import Table

    groups: dict[str, list[Verdict | OverVictims]] = {}
    for row in results.over_victims:
        groups.setdefault(f"{row.scenario} under {row.threat}, the worst of all victims", []).append(row)
    for verdict in results.verdicts:
        groups.setdefault(f"{verdict.scenario} under {verdict.threat}", []).append(verdict)
    if not groups:
        return []
    # The longest part of a name that cannot be broken says how wide the column of defenses is; attacks get the rest.
    names = max(len(part) for one in (*results.over_victims, *results.verdicts) for part in _PART.findall(one.defense))
    names = min(max(names, _NAME), _LONGEST)
    table = Table(box=None, pad_edge=False, header_style="", padding=(0, 2, 0, 0))
    table.add_column("verdict", no_wrap=True)
    table.add_column("defense", overflow="fold", min_width=names)
    table.add_column("no attack", justify="right", no_wrap=True)
    table.add_column("worst case", no_wrap=True)
    table.add_column("fidelity", justify="right", no_wrap=True)
    table.add_column("by", overflow="fold")
    titles: list[str] = []
    for title, verdicts in groups.items():
        if len(groups) > 1:
            # A title stands across all columns, which a row of the table cannot.
            table.add_row(f"\0{len(titles)}")
            titles.append(title)
        for one in sorted(verdicts, key=lambda verdict: not verdict.gated):
            word, defense, *figures, attack = _row(one)
            table.add_row(word, broken(defense, names), *figures, broken(attack, width - _FIGURES - names))
    text = io.StringIO()
    Console(file=text, width=width, highlight=False, markup=False, color_system=None).print(table)
    lines = [line.rstrip() for line in text.getvalue().splitlines()]
    printed = [titles[int(line[1:])] if line.startswith("\0") else line for line in lines]
    head = "Theft, the share of what the victim adds to a merge that an attacker gets:"
    return [*textwrap.wrap(head, width), *printed]


def broken(name: str, width: int) -> str:
    """A name on lines of at most so many characters, broken behind what joins its parts."""
    lines = [""]
    for part in _PART.findall(name):
        if lines[-1] and len(lines[-1]) + len(part) > width:
            lines.append("")
        lines[-1] += part
    return "\n".join(lines)


def _line(results: Results) -> Iterator[str]:
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
