"""`redteam search --defend`: the defenses that no other beats in theft, fidelity and price at once."""

from __future__ import annotations

import time
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import typer

from redteam.cli.outputs import writers
from redteam.cli.printing import print_answer

if TYPE_CHECKING:
    from redteam.search.defenders.results import Defenses


def search_defenses(
    asked: dict[str, Any], home: Path, report: Sequence[Path], processes: int, command: str, *, as_json: bool = False
) -> None:
    """Searches, writes what was found, also where it is interrupted, and tells of it.

    Args:
        asked: Fields of `AskedDefenses`.
        home: The folder.
        report: Further files to write.
        processes: How many compute.
        command: The command that repeats the search.
        as_json: Whether what was found is printed as JSON.

    Raises:
        typer.Exit: With 2 if nothing could be judged.
    """
    from redteam.cli.progress import Progress
    from redteam.plugins.registry import DEFENSE_SEARCH_REPORTS

    started = time.perf_counter()
    written = writers((*report, home / "search.html", home / "search.md"), DEFENSE_SEARCH_REPORTS)
    from redteam.search.defenders.run import AskedDefenses, search

    def keep(found: Defenses) -> None:
        for path, writer in written:
            writer(found, path)
        if as_json:
            print_answer(found.model_dump_json(indent=1, by_alias=True))
        else:
            _tell(found, home, time.perf_counter() - started)

    with Progress() as progress:
        found = search(AskedDefenses(**asked), home, observer=progress, keep=keep, workers=processes, command=command)
    if all(trial.values is None for trial in found.trials):
        raise typer.Exit(2)


def _tell(found: Defenses, home: Path, seconds: float) -> None:
    typer.echo("")
    for sentence in found.sentences:
        typer.echo(sentence)
    table = found.table()
    if table.rows:
        typer.echo(f"\n{table.title}")
    for mark, pipeline, figures in table.rows:
        typer.echo(f"{mark or ' '} {pipeline}: {figures}")
    if found.repeat:
        typer.echo(f"\nRepeat them on seeds that were not searched on: {found.repeat}")
    typer.echo(f"{len(found.trials)} trials, {seconds:.0f} s; page: {home / 'search.html'}")
