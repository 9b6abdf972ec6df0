"""How much a command prints, and as what: the options `--json`, `--quiet` and `--verbose`."""

from __future__ import annotations

import json
from collections.abc import Collection, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from redteam.terminal import Loudness, at_loudness

if TYPE_CHECKING:
    from redteam.notebook import Table


def print_json(value: Any) -> None:
    """Prints plain values as JSON on standard output."""
    typer.echo(json.dumps(value, indent=1, ensure_ascii=False))


def table_lines(table: Table, *, folded: Collection[str]) -> Iterator[str]:
    """The lines of a table as wide as the terminal; elsewhere, where rich guesses 80 columns, wide enough for a row.

    Args:
        table: What is printed.
        folded: Columns whose texts may be broken.
    """
    from rich.console import Console
    from rich.table import Table as RichTable

    made = RichTable(box=None, header_style="bold", pad_edge=False)
    for column in table.columns:
        made.add_column(column, no_wrap=column not in folded)
    for row in table.rows:
        made.add_row(*row)
    console = Console(width=None if Console().is_terminal else 140, highlight=False)
    with console.capture() as captured:
        console.print(made)
    yield from (line.rstrip() for line in captured.get().splitlines())


class Said:
    """What a command that writes a model says: sentences as it goes, or all at its end as one JSON object.

    Args:
        as_json: Whether it is JSON.

    Attributes:
        facts: Labels and what they say, as in the table of the model card.
    """

    def __init__(self, as_json: bool) -> None:
        self.facts: dict[str, str] = {}
        self._as_json = as_json
        self._sentences: list[str] = []

    def __call__(self, sentence: str) -> None:
        """Says a sentence."""
        self._sentences.append(sentence)
        if not self._as_json:
            typer.echo(sentence)

    def end(self, written: Path) -> None:
        """Ends, once all is written."""
        if self._as_json:
            print_json({"written": str(written), "facts": self.facts, "sentences": self._sentences})


def _hush(ctx: typer.Context, wanted: bool) -> bool:
    if wanted:
        ctx.with_resource(at_loudness(Loudness.quiet))
    return wanted


def _show_all(ctx: typer.Context, wanted: bool) -> bool:
    if wanted:
        ctx.with_resource(at_loudness(Loudness.verbose))
    return wanted


Json = Annotated[bool, typer.Option("--json", help="Print the result as JSON, and nothing else.")]
Quiet = Annotated[bool, typer.Option("-q", "--quiet", help="Show no progress.", callback=_hush)]
Verbose = Annotated[
    bool, typer.Option("-v", "--verbose", help="Print a line for each step, also on a terminal.", callback=_show_all)
]
Details = Annotated[
    bool,
    typer.Option(
        "-v",
        "--verbose",
        help="Also print flags, controls and counts, each verdict's reason, and a line for each step.",
        callback=_show_all,
    ),
]
"""The same of commands that print verdicts."""
