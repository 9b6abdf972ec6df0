"""`redteam run`: pairs defenses with attacks in scenarios and says which protections hold."""

from __future__ import annotations

import os
import shlex
import sys
import time
from dataclasses import asdict
from enum import StrEnum
from pathlib import Path
from typing import Annotated, Any

import typer

from redteam.cli import completion
from redteam.cli.checkpoint_options import Device
from redteam.cli.outputs import FailOn, Files, require_no_record, tell, writers
from redteam.cli.printing import Details, Json, Quiet, print_json
from redteam.cli.progress import Progress
from redteam.cores import cores
from redteam.devices import require_device
from redteam.errors import BadInput, UnwritableOutput
from redteam.extras import require_extra
from redteam.plugins.shipped import DEFAULT_PLAN
from redteam.terminal import mention


class Engine(StrEnum):
    """What starts the processes of a run."""

    local = "local"
    ray = "ray"


class Controls(StrEnum):
    """Which controls a run computes."""

    needed = "needed"
    all = "all"


def run(
    plan: Annotated[
        str, typer.Argument(metavar="[PLAN]", help="A plan that ships, or a TOML file.", autocompletion=completion.PLAN)
    ] = DEFAULT_PLAN,
    scenario: Annotated[
        list[str] | None, typer.Option(help="A scenario; may be repeated.", autocompletion=completion.SCENARIO)
    ] = None,
    defense: Annotated[
        list[str] | None,
        typer.Option(help="A defense, a+b for a chain; may be repeated.", autocompletion=completion.DEFENSE),
    ] = None,
    attack: Annotated[
        list[str] | None,
        typer.Option(help="An attack, a+b for a chain; may be repeated.", autocompletion=completion.ATTACK_OR_GAUNTLET),
    ] = None,
    merger: Annotated[
        list[str] | None, typer.Option(help="A merger; may be repeated.", autocompletion=completion.MERGER_OR_GAUNTLET)
    ] = None,
    threat: Annotated[
        list[str] | None, typer.Option(help="A threat model; may be repeated.", autocompletion=completion.THREAT_MODEL)
    ] = None,
    keys: Annotated[int | None, typer.Option(min=1, help="Keys to try each keyed defense under.")] = None,
    seeds: Annotated[int | None, typer.Option(min=1, help="Seeds: base and experts are retrained for each.")] = None,
    seed: Annotated[
        list[int] | None, typer.Option(min=0, help="This seed in place of all those from 0 on; may be repeated.")
    ] = None,
    time_limit: Annotated[float | None, typer.Option(min=0.001, help="Seconds after which a cell is ended.")] = None,
    workers: Annotated[int | None, typer.Option(min=0, help="Processes; 0 runs in this one, for debuggers.")] = None,
    engine: Annotated[
        Engine, typer.Option(help="What starts them: this program, here, or Ray, on the machines of a cluster.")
    ] = Engine.local,
    ray_address: Annotated[
        str,
        typer.Option(metavar="HOST:PORT", help="Of the cluster [default: $RAY_ADDRESS, else Ray on this machine]."),
    ] = "",
    device: Annotated[
        Device | None,
        typer.Option(metavar="[cpu|cuda]", help="Where locks are fitted and models run; results are a device's own."),
    ] = None,
    shard: Annotated[
        str, typer.Option(metavar="I/N", help="One of N processes that share OUT and the work, I from 1 to N.")
    ] = "",
    memory: Annotated[
        str | None, typer.Option(metavar="SIZE", help="What all processes together may take, as in 4GB or 512MB.")
    ] = None,
    controls: Annotated[
        Controls | None, typer.Option(help="Which controls to compute: those that a verdict rests on, or all.")
    ] = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Say what would be computed, and leave.")] = False,
    out: Annotated[
        Path | None, typer.Option(help="Folder for results and finished cells [default: runs/PLAN].")
    ] = None,
    report: Files = None,
    fail_on: FailOn = None,
    as_json: Json = False,
    quiet: Quiet = False,
    verbose: Details = False,
    mlflow: Annotated[
        bool, typer.Option("--mlflow", help="Log to mlflow: MLFLOW_TRACKING_URI, or OUT/mlflow.db.")
    ] = False,
    mlflow_uri: Annotated[str | None, typer.Option(metavar="URI", help="Log to mlflow there.")] = None,
) -> None:
    """Pair defenses with attacks in scenarios and say which protections hold.

    Options replace what the plan says. The same command again computes only what is
    missing. Theft figures are lower bounds: a stronger attack can only raise them. Exit codes: 0 held or nothing asked,
    1 the gate (--fail-on, or the plan's) failed, 2 something could not be evaluated.
    """
    started = time.perf_counter()
    os.environ.setdefault("OMP_NUM_THREADS", "1")  # torch and numpy read it when they load: the work is in the workers
    from redteam.evaluation.plan import find_plan, require_names, run_folder
    from redteam.evaluation.runner.shards import Shard

    if shard:
        Shard.parse(shard)  # a slip is said before torch is imported
    if seed and seeds is not None:
        raise BadInput("--seed names seeds and --seeds counts them from 0 on; give one of the two.")
    if ray_address and engine is not Engine.ray:
        raise BadInput("--ray-address names the cluster of --engine ray; add that, or leave the address out.")
    found, folder = find_plan(plan)
    given = {
        "scenarios": scenario,
        "defenses": defense,
        "attacks": attack,
        "mergers": merger,
        "threats": threat,
        "keys": keys,
        "seeds": tuple(dict.fromkeys(seed)) if seed else seeds,
        "time_limit": time_limit,
        "device": device and device.value,
        "memory": memory,
        "controls": controls and controls.value,
    }
    changed = {key: value for key, value in given.items() if value is not None}
    if device is not None and not dry_run:
        require_device(device.value)
    if fail_on:
        found = found.changed({"fail_on": fail_on}, origin="The command line")
    if changed:
        # What was written on the shell is read from where the user stands, what the plan says from where it lies.
        here = {
            key: [absolute(text) for text in value] if isinstance(value, list) else value
            for key, value in changed.items()
        }
        require_names(here, Path())
        found = found.changed(here, origin="The command line")
    home = run_folder(found, out)
    if home.exists() and not home.is_dir():
        raise UnwritableOutput(f"{home} cannot be written (it is no folder); name another one with --out.")
    asked = writers(report or ())
    require_no_record((path for path, _ in asked), [home])
    to_mlflow = mlflow or mlflow_uri is not None
    if to_mlflow:
        require_extra("mlflow", "Logging to mlflow")
    if not dry_run:
        require_device(found.device)
    mention(f"Reading the plan {plan}, torch and the plugins")
    from redteam.evaluation.preview import preview
    from redteam.evaluation.run import run as evaluate

    if dry_run:
        foreseen = preview(found, out=out, folder=folder)
        if as_json:
            print_json(asdict(foreseen))
        else:
            _show(foreseen)
        return
    with Progress() as progress:
        results = evaluate(
            found,
            out=out,
            folder=folder,
            observer=progress,
            command=command(),
            workers=cores() if workers is None and engine is Engine.local else workers,
            engine=engine.value,
            ray_address=ray_address,
            shard=shard,
        )
    page = home / "report.html"
    reports = [*writers((home / "report.md", page)), *asked]
    for path, writer in reports:
        writer(results, path)
    if to_mlflow:
        from redteam.tracking import export_mlflow

        export_mlflow(results, mlflow_uri, folder=home)
    tell(results, verbose=verbose, as_json=as_json)
    if not as_json:
        typer.echo(f"\n{time.perf_counter() - started:.0f} s; report: {page}")
    raise typer.Exit(results.exit_code)


def _show(preview: Any) -> None:
    stages = ", ".join(f"{count} {kind}" for kind, count in preview.computed.items())
    typer.echo(f"{preview.cells} cells in the results, from {sum(preview.computed.values())} computations ({stages}).")
    if further := sum(preview.further.values()):
        typer.echo(f"Gauntlets need up to {further} more, on what is still locked then.")
    typer.echo(f"{preview.cached} computations are cached; the folder holds {preview.megabytes:.1f} MB.")
    if preview.unprepared:
        typer.echo(f"Not loaded in this folder so far, so counted as missing: {', '.join(preview.unprepared)}.")


def absolute(text: str) -> str:
    """A reference as it was written on the shell, its file found from anywhere."""
    from redteam.plugins.reference import chain_text, parse_chain

    return chain_text(tuple(link.absolute() for link in parse_chain(text)))


def command() -> str:
    """The command that repeats this one."""
    return shlex.join(["redteam", *sys.argv[1:]])
