"""`redteam search`: the strongest attacker of a defense within a budget, or the defenses that no other beats."""

from __future__ import annotations

import re
import time
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from redteam.cli import completion
from redteam.cli.checkpoint_options import Device
from redteam.cli.outputs import Pages, writers
from redteam.cli.printing import Json, Quiet, Verbose, print_answer
from redteam.devices import require_device
from redteam.errors import BadInput, UnknownName
from redteam.extras import require_extra
from redteam.plugins.shipped import default_merger, defaults

if TYPE_CHECKING:
    from redteam.search.results import SearchResults


def search(
    defense: Annotated[
        list[str] | None,
        typer.Option(
            autocompletion=completion.DEFENSE,
            help="The defense to break, a+b for a chain; with --defend one to choose from; then repeat.",
        ),
    ] = None,
    defend: Annotated[bool, typer.Option("--defend", help="Look for a defense that no attack breaks.")] = False,
    scenario: Annotated[str, typer.Option(help="The scenario.", autocompletion=completion.SCENARIO)] = defaults()[
        "scenarios"
    ][0],
    seed: Annotated[int, typer.Option(min=0, help="Which retraining of base and experts.")] = 0,
    merger: Annotated[str, typer.Option(help="The merger.", autocompletion=completion.MERGER)] = default_merger(),
    threat: Annotated[
        str, typer.Option(help="The threat model.", autocompletion=completion.THREAT_MODEL)
    ] = "weights-only",
    trials: Annotated[int, typer.Option(min=1, help="How many chains to try.")] = 40,
    seconds: Annotated[float | None, typer.Option(min=0, help="Begin no further trial after so long.")] = None,
    steps: Annotated[
        int | None,
        typer.Option(min=1, max=10, help="The most plugins in a chain [default: 3 attacks, or 2 defenses]."),
    ] = None,
    without: Annotated[list[str] | None, typer.Option(metavar="NAME", help="Leave a plugin out; repeat.")] = None,
    attack: Annotated[
        list[str] | None,
        typer.Option(
            autocompletion=completion.ATTACK,
            help="Choose from these attacks alone; settings given are not tuned; with --defend what every defense "
            "faces; repeat.",
        ),
    ] = None,
    fidelity: Annotated[
        float | None, typer.Option(min=0, max=1, help="With --defend, what it should keep [default: 0.95].")
    ] = None,
    seeds: Annotated[
        int | None,
        typer.Option(min=1, help="With --defend, on how many others the plan repeats what was found [default: 5]."),
    ] = None,
    storage: Annotated[
        str | None, typer.Option(metavar="URL", help="An optuna storage [default: a file in OUT].")
    ] = None,
    study: Annotated[str, typer.Option(help="The study's name in the storage.")] = "redteam",
    time_limit: Annotated[
        float | None,
        typer.Option(
            min=0.001, help="Seconds after which a trial is ended; with --defend a computation [default: 30; as run's]."
        ),
    ] = None,
    device: Annotated[
        Device, typer.Option(metavar="[cpu|cuda]", help="Where locks are fitted and models run.")
    ] = Device.cpu,
    workers: Annotated[
        int | None,
        typer.Option(min=0, help="Processes that score the winner, or try defenses; 0 runs all in this one."),
    ] = None,
    out: Annotated[Path | None, typer.Option(help="Folder for what is found [default: runs/search-DEFENSE].")] = None,
    report: Pages = None,
    as_json: Json = False,
    quiet: Quiet = False,
    verbose: Verbose = False,
) -> None:
    """Look for the strongest attacker of a defense, or with --defend for a defense that no attack breaks.

    Which plugins, in which order, with which settings: tuned on data that nothing is scored on. Attackers are tuned for
    theft and seconds, and the winner is then scored; defenses for theft, fidelity and their owner's price, and a plan
    repeats those that no other beats. The same command again goes on where it stopped. Exit codes: 0, also where
    nothing strong was found; 2 if nothing could be said.
    """
    from redteam.cli.run import absolute, command
    from redteam.cores import cores
    from redteam.evaluation.plan import require_names
    from redteam.plugins.registry import ATTACKS, DEFENSES
    from redteam.threat import threat_model

    started = time.perf_counter()
    require_device(device)
    named, processes = tuple(defense or ()), cores() if workers is None else workers
    require_names(
        {"defenses": list(named), "scenarios": [scenario], "mergers": [merger], "attacks": attack or []}, Path()
    )
    threat_model(threat)
    kind = DEFENSES if defend else ATTACKS
    for name in without or ():
        if name not in kind and not any("@" in text for text in (*named, *(attack or ()))):
            raise UnknownName.among(kind.kind, name, kind.names)
    require_extra("optuna", "redteam search")
    shared: dict[str, Any] = {
        "scenario": absolute(scenario),
        "seed": seed,
        "merger": absolute(merger),
        "threat": threat,
        "trials": trials,
        "seconds": seconds,
        "without": tuple(without or ()),
        "storage": storage,
        "study": study,
        "device": device.value,
        **_given(steps=steps, time_limit=time_limit, attacks=tuple(absolute(text) for text in attack or ())),
    }
    if defend:
        from redteam.cli.defend import search_defenses

        chosen = {"defenses": tuple(absolute(text) for text in named), **_given(fidelity=fidelity, seeds=seeds)}
        home = out or Path("runs") / "search-defend"
        search_defenses({**shared, **chosen}, home, report or (), processes, command(), as_json=as_json)
        return
    for flag, value in (("--fidelity", fidelity), ("--seeds", seeds)):
        if value is not None:
            raise BadInput(f"{flag} says something of a search for defenses; add --defend, or leave it out.")
    if len(named) != 1:
        raise BadInput(
            f"A search breaks one defense, and {len(named) or 'none'} was named; name it with --defense, or look for "
            "one that holds with --defend."
        )
    home = out or Path("runs") / f"search-{re.sub(r'[^A-Za-z0-9]+', '-', named[0]).strip('-')}"
    found = _search_attackers({**shared, "defense": absolute(named[0])}, home, report or (), processes, command())
    if as_json:
        print_answer(found.model_dump_json(indent=1, by_alias=True))
    else:
        _tell(found, home, time.perf_counter() - started)
    raise typer.Exit(0 if found.scored is not None and found.scored.theft is not None else 2)


def _given(**options: Any) -> dict[str, Any]:
    """Those that were given; what was not is as by default."""
    return {name: value for name, value in options.items() if value not in (None, ())}


def _search_attackers(
    asked: dict[str, Any], home: Path, report: Sequence[Path], processes: int, command: str
) -> SearchResults:
    from redteam.cli.progress import Progress
    from redteam.plugins.registry import SEARCH_REPORTS

    written = writers((*report, home / "search.html"), SEARCH_REPORTS)
    from redteam.search.run import Asked
    from redteam.search.run import search as look

    with Progress() as progress:
        found = look(
            Asked(**asked),
            home,
            observer=progress,
            workers=min(processes, 1),
            cores=processes,
            command=command,
        )
    for path, writer in written:
        writer(found, path)
    return found


def _tell(found: SearchResults, home: Path, seconds: float) -> None:
    typer.echo("")
    for sentence in found.sentences:
        typer.echo(sentence)
    table = found.table()
    if table.rows:
        typer.echo(f"\n{table.title}")
    for mark, figures, pipeline in table.rows:
        typer.echo(f"{mark or ' '} {figures}  {pipeline}")
    if found.repeat:
        typer.echo(f"\nRepeat the winner: {found.repeat}")
    typer.echo(f"{len(found.trials)} trials, {seconds:.0f} s; page: {home / 'search.html'}")
