"""The answer of a run in words: what holds, what does not, and what that was tried on."""

from __future__ import annotations

import io
import re
import textwrap
from collections import Counter
from collections.abc import Iterator
from typing import TYPE_CHECKING

from redteam.answer import once
from redteam.evaluation.results import Results
from redteam.overview import HEAD, found, remarks, tables

if TYPE_CHECKING:
    from rich.console import JustifyMethod, OverflowMethod

_FIGURES = 56  # columns of the table that all but the names of defense and attack take
_NAME, _LONGEST = 12, 14  # columns that most names of defenses need, and that they get at most
_PART = re.compile(r"[^-+:=,_]+[-+:=,_]*|[-+:=,_]+")


def answer(results: Results, *, verbose: bool = False, width: int = 80) -> str:
    """What a run found: the answer in words, then a line for each defense.

    Args:
        results: What was found.
        verbose: Whether flags, controls and counts follow.
        width: Columns that the text may take.
    """
    blocks = [
        [_folded(text, width) for text in found(results)],
        _table(results, width),
        [_folded(text, width) for text in remarks(results)],
    ]
    if verbose:
        blocks += [[_folded(text, width, "  ") for text in _details(results)]]
    return "\n\n".join("\n".join(block) for block in blocks if block)


def _folded(text: str, width: int, indent: str = "") -> str:
    """Lines of a paragraph; names keep their hyphens on one line."""
    return textwrap.fill(text, width, break_on_hyphens=False, break_long_words=False, subsequent_indent=indent)


def _table(results: Results, width: int) -> list[str]:
    """One line for each verdict, and a title where there are several tables."""
    from rich.console import Console
    from rich.table import Table

    shown = tables(results)
    if not shown:
        return []
    # The longest part of a name that cannot be broken says how wide the column of defenses is; attacks get the rest.
    names = max(len(part) for one in (*results.over_victims, *results.verdicts) for part in _PART.findall(one.defense))
    names = min(max(names, _NAME), _LONGEST)
    table = Table(box=None, pad_edge=False, header_style="", padding=(0, 2, 0, 0))
    for column in shown[0].columns:
        folded, wide = column in ("defense", "by"), names if column == "defense" else None
        justify: JustifyMethod = "right" if column in ("no attack", "fidelity") else "left"
        overflow: OverflowMethod = "fold" if folded else "ellipsis"
        table.add_column(column, justify=justify, overflow=overflow, min_width=wide, no_wrap=not folded)
    titles: list[str] = []
    for one in shown:
        if len(shown) > 1:
            # A title stands across all columns, which a row of the table cannot.
            table.add_row(f"\0{len(titles)}")
            titles.append(one.title)
        for word, defense, *figures, attack in one.rows:
            table.add_row(word, broken(defense, names), *figures, broken(attack, width - _FIGURES - names))
    text = io.StringIO()
    Console(file=text, width=width, highlight=False, markup=False, color_system=None).print(table)
    lines = [line.rstrip() for line in text.getvalue().splitlines()]
    printed = [titles[int(line[1:])] if line.startswith("\0") else line for line in lines]
    return [*textwrap.wrap(HEAD, width), *printed]


def broken(name: str, width: int) -> str:
    """A name on lines of at most so many characters, broken behind what joins its parts."""
    lines = [""]
    for part in _PART.findall(name):
        if lines[-1] and len(lines[-1]) + len(part) > width:
            lines.append("")
        lines[-1] += part
    return "\n".join(lines)


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
