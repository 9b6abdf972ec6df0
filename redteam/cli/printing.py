"""How much a command prints, and as what: the options `--json`, `--quiet` and `--verbose`."""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Collection, Iterator
from contextlib import contextmanager, redirect_stdout, suppress
from contextvars import ContextVar
from pathlib import Path
from typing import IO, TYPE_CHECKING, Annotated, Any

import typer

from redteam.terminal import Loudness, at_loudness

if TYPE_CHECKING:
    from redteam.notebook import Table

_STDOUT, _STDERR = 1, 2
_kept: ContextVar[IO[str] | None] = ContextVar("kept for JSON", default=None)


def print_json(value: Any) -> None:
    """Prints plain values as JSON on standard output."""
    print_answer(json.dumps(value, indent=1, ensure_ascii=False))


def print_answer(text: str) -> None:
    """Prints JSON on standard output, which `--json` keeps for it."""
    typer.echo(text, file=_kept.get())


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


@contextmanager
def _for_json_alone() -> Iterator[None]:
    """Lets nothing but the answer to standard output; what plugins, libraries and workers print goes to the other."""
    out, copy = sys.stdout, None
    if out is None or sys.stderr is None:  # closed by the shell: nothing is read there, or nothing can be put there
        yield
        return
    out.flush()
    with suppress(OSError, ValueError):  # streams of notebooks and tests have no descriptor
        if out.fileno() == _STDOUT:
            copy = os.fdopen(os.dup(_STDOUT), "w", encoding=out.encoding, errors=out.errors)
    token = _kept.set(copy or out)
    try:
        if copy is not None:
            os.dup2(_STDERR, _STDOUT)
        with redirect_stdout(sys.stderr):
            yield
    finally:
        _kept.reset(token)
        if copy is not None:
            os.dup2(copy.fileno(), _STDOUT)
            with suppress(OSError):  # told when it was printed
                copy.close()


def _keep_apart(ctx: typer.Context, wanted: bool) -> bool:
    if wanted and not ctx.resilient_parsing:  # a shell that completes asks for words on standard output
        ctx.with_resource(_for_json_alone())
    return wanted


def _hush(ctx: typer.Context, wanted: bool) -> bool:
    if wanted:
        ctx.with_resource(at_loudness(Loudness.quiet))
    return wanted


def _show_all(ctx: typer.Context, wanted: bool) -> bool:
    if wanted:
        ctx.with_resource(at_loudness(Loudness.verbose))
    return wanted


Json = Annotated[bool, typer.Option("--json", help="Print the result as JSON, and nothing else.", callback=_keep_apart)]
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
