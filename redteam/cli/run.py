"""`redteam run`: pairs defenses with attacks in scenarios and says which protections hold."""

from __future__ import annotations

import errno
import os
import shlex
import sys
import tempfile
import time
from pathlib import Path
from typing import Annotated, Any

import typer

from redteam.cli.progress import Progress
from redteam.errors import BadInput, UnwritableOutput


def run(
    plan: Annotated[str | None, typer.Argument(metavar="[PLAN]", help="A plan that ships, or a TOML file.")] = None,
    scenario: Annotated[list[str] | None, typer.Option(help="A scenario; may be repeated.")] = None,
    defense: Annotated[list[str] | None, typer.Option(help="A defense, a+b for a chain; may be repeated.")] = None,
    attack: Annotated[list[str] | None, typer.Option(help="An attack, a+b for a chain; may be repeated.")] = None,
    merger: Annotated[list[str] | None, typer.Option(help="A merger; may be repeated.")] = None,
    threat: Annotated[list[str] | None, typer.Option(help="A threat model; may be repeated.")] = None,
    keys: Annotated[int | None, typer.Option(min=1, help="Keys to try each keyed defense under.")] = None,
    seeds: Annotated[int | None, typer.Option(min=1, help="Seeds: base and experts are retrained for each.")] = None,
    time_limit: Annotated[float | None, typer.Option(min=0.001, help="Seconds after which a cell is ended.")] = None,
    workers: Annotated[int | None, typer.Option(min=0, help="Processes; 0 runs in this one, for debuggers.")] = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Say what would be computed, and leave.")] = False,
    out: Annotated[
        Path | None, typer.Option(help="Folder for results and finished cells [default: runs/PLAN].")
    ] = None,
    report: Annotated[
        list[Path] | None,
        typer.Option("-o", "--report", metavar="FILE", help="Also write a report here: .md or .json."),
    ] = None,
) -> None:
    """Pair defenses with attacks in scenarios and say which protections hold.

    Without PLAN it runs 'quick'. Options replace what the plan says. The same command again computes only what is
    missing. Robustness figures are upper bounds: a stronger attack can only lower them.
    """
    from redteam.evaluation.run import find_plan, preview, run_folder
    from redteam.evaluation.run import run as evaluate

    started = time.perf_counter()
    found, folder = find_plan(plan or "quick")
    given = {
        "scenarios": scenario,
        "defenses": defense,
        "attacks": attack,
        "mergers": merger,
        "threats": threat,
        "keys": keys,
        "seeds": seeds,
        "time_limit": time_limit,
    }
    changed = {key: value for key, value in given.items() if value is not None}
    if changed:
        # What was written on the shell is read from where the user stands, what the plan says from where it lies.
        here = {
            key: [_absolute(text) for text in value] if isinstance(value, list) else value
            for key, value in changed.items()
        }
        found = found.changed(here, origin="The command line")
    writers = [(path, _writer(path)) for path in report or ()]
    if dry_run:
        _show(preview(found, out=out, folder=folder))
        return
    command = shlex.join(["redteam", *sys.argv[1:]])
    with Progress() as progress:
        results = evaluate(
            found,
            out=out,
            folder=folder,
            observer=progress,
            command=command,
            workers=_cores() if workers is None else workers,
        )
    markdown = run_folder(found, out) / "report.md"
    for path, writer in [(markdown, _writer(markdown)), *writers]:
        writer(results, path)
    _tell(results, markdown, time.perf_counter() - started)
    raise typer.Exit(results.exit_code)


def _tell(results: Any, report: Path, seconds: float) -> None:
    typer.echo("")
    for verdict in results.verdicts:
        flags = f" ({', '.join(verdict.flags)})" if verdict.flags else ""
        typer.echo(f"{verdict.verdict:<14} {verdict.defense} under {verdict.threat}{flags}: {verdict.reason}.")
    failed = [control for control in results.controls if not control.passed]
    for control in failed:
        about = " ".join(part for part in (control.attack, control.defense, control.group, control.site) if part)
        typer.echo(f"control failed  {control.control} {about}: {control.explanation}")
    broken = [cell for cell in results.cells if cell.status in ("error", "timeout")]
    for cell in broken:
        typer.echo(
            f"{cell.status:<14} {cell.attack} on {cell.defense} (seed {cell.seed}, key {cell.key}): {cell.reason}"
        )
    typer.echo(
        f"\n{len(results.cells)} cells, {len(results.controls)} controls ({len(failed)} failed), {seconds:.0f} s; "
        f"report: {report}"
    )
    typer.echo("Robustness figures are upper bounds: a stronger attack can only lower them.")


def _show(preview: Any) -> None:
    stages = ", ".join(f"{count} {kind}" for kind, count in preview.computed.items())
    typer.echo(f"{preview.cells} cells in the results, from {sum(preview.computed.values())} computations ({stages}).")
    typer.echo(f"{preview.cached} computations are cached; the folder holds {preview.megabytes:.1f} MB.")
    if preview.unprepared:
        typer.echo(f"Not loaded in this folder so far, so counted as missing: {', '.join(preview.unprepared)}.")


def _writer(path: Path) -> Any:
    from redteam.plugins.registry import REPORTS

    extension = path.suffix.removeprefix(".")
    if extension not in REPORTS:
        known = ", ".join(f".{name}" for name in REPORTS.names)
        raise BadInput(f"No report can be written to {path.name}; the file's name must end in one of {known}.")
    try:
        if path.is_dir():
            raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR))
        with tempfile.TemporaryFile(dir=next(p for p in path.absolute().parents if p.exists())):
            pass
    except OSError as error:
        raise UnwritableOutput(
            f"{path} cannot be written ({error.strerror}); name a file in a folder that can."
        ) from None
    return REPORTS.load(extension).function


def _absolute(text: str) -> str:
    from redteam.plugins.reference import Reference, chain_text, parse_chain

    links = parse_chain(text)
    return chain_text(
        tuple(
            Reference(f"{Path(one.file).expanduser().absolute()}@{one.plugin}", one.settings) if one.file else one
            for one in links
        )
    )


def _cores() -> int:
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
