"""`redteam diff`: what differs between two runs, or between two models."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from redteam.cli import checkpoint_options as shared
from redteam.cli import opening
from redteam.cli.outputs import require_apart, writers
from redteam.cli.printing import Json, Quiet, Verbose, print_answer, table_lines
from redteam.errors import BadInput

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from redteam.diff import ModelDiff, RunDiff

_SHOWN = 12  # rows that the terminal gets of each list; pages and JSON have all
_A = (
    "A run (its folder, a results file, an archive of redteam submit) "
    "or a model (a folder, a safetensors file, an adapter with --base)."
)


def diff(
    a: Annotated[Path, typer.Argument(metavar="A", help=_A, callback=shared.at_home)],
    b: Annotated[Path, typer.Argument(metavar="B", help="Another one of that kind.", callback=shared.at_home)],
    base: Annotated[
        Path | None,
        typer.Option(
            help="Of two models: the public model that both were made from, for adapters and shares of task vectors.",
            callback=shared.at_home,
        ),
    ] = None,
    report: Annotated[
        list[Path] | None,
        typer.Option(
            "-o",
            "--report",
            "--out",
            metavar="FILE",
            help="Also write it here: .html or .json; may be repeated.",
        ),
    ] = None,
    architecture: shared.Description = None,
    dequantise: shared.Dequantise = False,
    as_json: Json = False,
    quiet: Quiet = False,
    verbose: Verbose = False,
) -> None:
    """Say what differs between two runs, or between two models.

    Of runs: verdicts, figures whose intervals part, controls, plans, engines. Exit code 1 if the word of a verdict
    changed that both have, on a defense that is meant to protect. Of models: names, shapes, dtypes, distance, distance
    up to gauge, and whether one comes from the other; exit code 0. Exit code 2 if they cannot be compared.
    """
    from redteam.plugins.registry import DIFF_REPORTS

    asked = writers(report or (), DIFF_REPORTS)
    runs = [_is_run(path) for path in (a, b)]
    if runs[0] != runs[1]:
        run, model = (a, b) if runs[0] else (b, a)
        raise BadInput(f"{run} is a run and {model} a model; name two runs, or two models.")
    require_apart([path for path, _ in asked], [a, b, *([] if base is None else [base])])
    found: RunDiff | ModelDiff
    if runs[0]:
        if base is not None:
            raise BadInput(f"{a} and {b} are runs, which have no --base; leave it out.")
        found = _runs(a, b)
    else:
        found = _models(a, b, base, architecture, dequantise)
    for path, writer in asked:
        writer(found, path)
    if as_json:
        print_answer(found.model_dump_json(indent=1, by_alias=True))
    else:
        for line in _told_runs(found) if found.kind == "runs" else _told_models(found):
            typer.echo(line)
        for path, _ in asked:
            typer.echo(f"Written: {path}")
    raise typer.Exit(1 if found.kind == "runs" and found.changed else 0)


def _is_run(path: Path) -> bool:
    """Whether a path is a run's; all else is a model's, and said so when it is opened."""
    from redteam.hub import of_hub

    if of_hub(path):
        return False
    opening.require_there(path, "a run or a model on disk")
    if path.is_dir():
        return (path / "results.json").exists()
    return path.suffix in (".json", ".gz")


def _runs(a: Path, b: Path) -> RunDiff:
    from redteam.diff.runs import diff_runs
    from redteam.evaluation.results import Results

    return diff_runs(Results.read(a), Results.read(b), names=(str(a), str(b)))


def _models(a: Path, b: Path, base: Path | None, architecture: Path | None, dequantise: bool) -> ModelDiff:
    names = (str(a), str(b), str(base or ""))
    a, b, base = opening.on_disk(a), opening.on_disk(b), base and opening.on_disk(base)
    from redteam.diff.models import diff_models

    dtype = shared.read_as(dequantise)
    anchor = None if base is None else opening.open_base(base, dequantise=dtype)
    held = [opening.opened(path, anchor, dequantise=dtype) for path in (a, b)]
    opening.tell_description(architecture, held[0], a)
    alike = opening.agreed(*([] if anchor is None else [anchor]), *held)
    one, other = alike[-2:]
    with shared.working() as shown:
        return diff_models(
            one,
            other,
            None if anchor is None else alike[0],
            names=names,
            progress=shown.advanced,
        )


def _told_runs(found: RunDiff) -> Iterator[str]:
    from redteam.diff.words import run_summary, run_tables

    yield from run_summary(found)
    for table in run_tables(found):
        yield f"\n{table.title}"
        yield from _some(f"  {line}" for (line,) in table.rows)


def _some(lines: Iterable[str]) -> Iterator[str]:
    held = list(lines)
    yield from held[:_SHOWN]
    if len(held) > _SHOWN:
        yield f"  and {len(held) - _SHOWN} more (--json, -o diff.html)"


def _told_models(found: ModelDiff) -> Iterator[str]:
    from redteam.diff.words import kinds_table, legend

    yield from found.summary
    if found.kinds:
        yield ""
        yield from table_lines(kinds_table(found), folded=("gauge",))
        yield f"\n{legend(found)}"
