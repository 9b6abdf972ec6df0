"""`redteam verify`: whether the results of a run follow from what they rest on."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from redteam.cli.checkpoint_options import at_home
from redteam.cli.opening import require_there
from redteam.cli.printing import Json, Quiet, Verbose, print_answer

if TYPE_CHECKING:
    from redteam.evaluation.verify import Verification

_SHOWN = 8  # disagreements of one check that the terminal gets; JSON has all


def verify(
    run: Annotated[
        Path,
        typer.Argument(
            metavar="DIR",
            help="The folder of a finished run, a results file, or an archive of redteam submit.",
            callback=at_home,
        ),
    ],
    sample: Annotated[int, typer.Option(min=0, help="Steps to compute anew, drawn at random.")] = 5,
    seed: Annotated[int, typer.Option(help="Of the draw.")] = 0,
    workers: Annotated[int | None, typer.Option(min=0, help="Processes; 0 computes in this one.")] = None,
    as_json: Json = False,
    quiet: Quiet = False,
    verbose: Verbose = False,
) -> None:
    """Say whether the results of a run follow from what they rest on, and what does not agree.

    Verdicts are decided anew from rows, rows summed anew from the records of single steps, and some of these computed
    anew, where engine, plugins and scenarios are those of the run; else it says so. Nothing is written to DIR. Exit
    codes: 0 nothing disagrees, 1 something does, 2 there are no results.
    """
    require_there(run / "results.json" if run.is_dir() else run, "the folder of a finished run")
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    from redteam.cli.progress import Progress
    from redteam.cores import cores
    from redteam.evaluation.verify import verify as check

    with Progress() as progress:
        found = check(run, sample=sample, seed=seed, workers=cores() if workers is None else workers, observer=progress)
    if as_json:
        print_answer(found.model_dump_json(indent=1, by_alias=True))
    else:
        _tell(found)
    raise typer.Exit(0 if found.agrees else 1)


def _tell(found: Verification) -> None:
    for check in found.checks:
        typer.echo(f"{check.state:<12} {check.name:<9} {check.told}")
        for one in check.found[:_SHOWN]:
            typer.echo(f"{'':<23}{one}")
        if len(check.found) > _SHOWN:
            typer.echo(f"{'':<23}and {len(check.found) - _SHOWN} more (--json)")
    wrong = sum(len(check.found) for check in found.checks)
    left = [check.name for check in found.checks if check.state == "not checked"]
    told = f"{wrong} {'thing does' if wrong == 1 else 'things do'} not agree" if wrong else "Nothing disagrees"
    rest = f"; not checked: {', '.join(left)}" if left else ""
    typer.echo(f"\n{told} in {found.run}{rest}.")
