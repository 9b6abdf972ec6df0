"""`redteam cache`: what scenarios have trained and prepared on this machine, and how to be rid of it."""

from __future__ import annotations

import sys
import time
from collections.abc import Sequence
from datetime import datetime
from enum import StrEnum
from typing import Annotated, Any

import typer

from redteam.caching import Entry, cache_root, entries, remove, this_engine
from redteam.cli.printing import Json, print_json
from redteam.errors import BadInput
from redteam.memory import shown

_DAY = 24 * 3600.0


class Action(StrEnum):
    """What to do."""

    list = "list"
    size = "size"
    prune = "prune"


class Engine(StrEnum):
    """Whose entries go."""

    other = "other"


def cache(
    action: Annotated[
        Action, typer.Argument(help="Say what is there, how large it all is, or remove what the options name.")
    ] = Action.list,
    older_than: Annotated[
        float | None, typer.Option(metavar="DAYS", min=0, help="Of prune: what was not used for so long.")
    ] = None,
    engine: Annotated[
        Engine | None, typer.Option(help="Of prune: what another version of this program made, or an unknown one.")
    ] = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Of prune: say what would go, and leave.")] = False,
    yes: Annotated[bool, typer.Option("-y", "--yes", help="Of prune: do not ask.")] = False,
    as_json: Json = False,
) -> None:
    """Say what scenarios have trained and prepared on this machine ($REDTEAM_CACHE), and remove what is not needed.

    With both options of prune, what both name is removed, and with none of them everything. It is made anew when a run
    needs it. The steps of a run lie in its own folder and go with that.
    """
    if action != Action.prune and (older_than is not None or engine or dry_run or yes):
        raise BadInput(f"--older-than, --engine, --dry-run and --yes belong to prune, and {action} removes nothing.")
    found = entries()
    if action == Action.prune:
        _prune(_chosen(found, older_than, engine), dry_run=dry_run, yes=yes, as_json=as_json)
    elif as_json:
        print_json(_plain(found))
    else:
        if action == Action.list:
            _print_lines(found)
        typer.echo(f"{_counted(found)} in {cache_root()}.")


def _chosen(found: Sequence[Entry], older_than: float | None, engine: Engine | None) -> list[Entry]:
    now, ours = time.time(), this_engine() if engine else ""
    return [
        one
        for one in found
        if (older_than is None or now - one.used > older_than * _DAY) and (engine is None or one.engine != ours)
    ]


def _prune(chosen: Sequence[Entry], *, dry_run: bool, yes: bool, as_json: bool) -> None:
    if not as_json:
        _print_lines(chosen)
    if not chosen or dry_run:
        told = f"{_counted(chosen)} would be removed." if chosen else "There is nothing to remove."
    else:
        if not yes:
            _ask(chosen)
        for one in chosen:
            remove(one)
        told = f"{_counted(chosen)} {'was' if len(chosen) == 1 else 'were'} removed."
    if as_json:
        print_json({**_plain(chosen), "removed": bool(chosen) and not dry_run})
    else:
        typer.echo(told)


def _ask(chosen: Sequence[Entry]) -> None:
    """Leaves with exit code 1 unless the user agrees."""
    if not sys.stdin.isatty():
        raise BadInput("Nobody can be asked here whether to remove this; add --yes, or look first with --dry-run.")
    if not typer.confirm(f"{_counted(chosen)}: remove?", err=True):
        typer.echo("Nothing was removed.", err=True)
        raise typer.Exit(1)


def _plain(found: Sequence[Entry]) -> dict[str, Any]:
    rows = [
        {
            "path": str(one.path),
            "scenario": one.scenario,
            "seed": one.seed,
            "bytes": one.size,
            "used": datetime.fromtimestamp(one.used).astimezone().isoformat(timespec="seconds"),
            "engine": one.engine,
        }
        for one in found
    ]
    return {"root": str(cache_root()), "bytes": sum(one.size for one in found), "entries": rows}


def _print_lines(found: Sequence[Entry]) -> None:
    for one in found:
        seed = "" if one.seed is None else f"seed {one.seed}"
        day = datetime.fromtimestamp(one.used).astimezone().date().isoformat()
        made = one.engine or "unknown engine"
        typer.echo(f"{one.scenario:<12}  {seed:<8}  {shown(one.size):>8}  {day}  {made:<20}  {one.path.name}")


def _counted(found: Sequence[Entry]) -> str:
    what = "One entry" if len(found) == 1 else f"{len(found) or 'No'} entries"
    return f"{what}, {shown(sum(one.size for one in found))}" if found else what
