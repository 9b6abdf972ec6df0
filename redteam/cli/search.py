"""`redteam search`: the strongest attacker of a defense within a budget."""

from __future__ import annotations

import re
import time
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from redteam.cli.outputs import Pages, writers
from redteam.plugins.shipped import default_merger, defaults

if TYPE_CHECKING:
    from redteam.search.results import SearchResults


def search(
    defense: Annotated[str, typer.Option(help="The defense to break, a+b for a chain.")],
    scenario: Annotated[str, typer.Option(help="The scenario.")] = defaults()["scenarios"][0],
    seed: Annotated[int, typer.Option(min=0, help="Which retraining of base and experts.")] = 0,
    merger: Annotated[str, typer.Option(help="The merger.")] = default_merger(),
    threat: Annotated[str, typer.Option(help="The threat model.")] = "weights-only",
    trials: Annotated[int, typer.Option(min=1, help="How many pipelines to try.")] = 40,
    seconds: Annotated[float | None, typer.Option(min=0, help="Begin no further trial after so long.")] = None,
    steps: Annotated[int, typer.Option(min=1, max=10, help="The most attacks in a pipeline.")] = 3,
    without: Annotated[list[str] | None, typer.Option(metavar="NAME", help="Leave an attack out; repeat.")] = None,
    attack: Annotated[
        list[str] | None, typer.Option(help="Choose from these attacks alone; settings given are not tuned; repeat.")
    ] = None,
    storage: Annotated[
        str | None, typer.Option(metavar="URL", help="An optuna storage [default: a file in OUT].")
    ] = None,
    study: Annotated[str, typer.Option(help="The study's name in the storage.")] = "redteam",
    time_limit: Annotated[float, typer.Option(min=0.001, help="Seconds after which a trial is ended.")] = 30.0,
    workers: Annotated[
        int | None, typer.Option(min=0, help="Processes that score the winner; 0 runs all in this one.")
    ] = None,
    out: Annotated[Path | None, typer.Option(help="Folder for what is found [default: runs/search-DEFENSE].")] = None,
    report: Pages = None,
) -> None:
    """Look for the strongest attacker of a defense: which attacks, in which order, with which settings.

    Tuned for theft and seconds at once on data that nothing is scored on; the winner is then scored. The same command
    again goes on where it stopped. Exit codes: 0, also where no strong attacker was found; 2 if nothing could be said.
    """
    from redteam.cli.progress import Progress
    from redteam.cli.run import absolute, command, cores
    from redteam.evaluation.plan import require_names
    from redteam.plugins.registry import SEARCH_REPORTS

    started = time.perf_counter()
    require_names(
        {"defenses": [defense], "scenarios": [scenario], "mergers": [merger], "attacks": attack or []}, Path()
    )
    from redteam.search.run import Asked
    from redteam.search.run import search as look

    home = out or Path("runs") / f"search-{re.sub(r'[^A-Za-z0-9]+', '-', defense).strip('-')}"
    asked = Asked(
        defense=absolute(defense),
        scenario=absolute(scenario),
        seed=seed,
        merger=absolute(merger),
        threat=threat,
        trials=trials,
        seconds=seconds,
        steps=steps,
        without=tuple(without or ()),
        attacks=tuple(absolute(text) for text in attack or ()),
        storage=storage,
        study=study,
        time_limit=time_limit,
    )
    written = writers((home / "search.html", *(report or ())), SEARCH_REPORTS)
    processes = cores() if workers is None else workers
    with Progress() as progress:
        found = look(
            asked,
            home,
            observer=progress,
            workers=min(processes, 1),
            cores=processes,
            command=command(),
        )
    for path, writer in written:
        writer(found, path)
    _tell(found, home, time.perf_counter() - started)
    raise typer.Exit(0 if found.scored is not None and found.scored.theft is not None else 2)


def _tell(found: SearchResults, home: Path, seconds: float) -> None:
    typer.echo("")
    for sentence in found.sentences:
        typer.echo(sentence)
    numbers = {trial.number: trial for trial in found.trials}
    if found.front:
        typer.echo("\nNo other trial beats these in theft and seconds at once, on the tuning data:")
    for number in found.front:
        mark = "*" if number == found.winner else " "
        typer.echo(f"{mark} {numbers[number].figures}  {numbers[number].pipeline}")
    if found.repeat:
        typer.echo(f"\nRepeat the winner: {found.repeat}")
    typer.echo(f"{len(found.trials)} trials, {seconds:.0f} s; page: {home / 'search.html'}")
