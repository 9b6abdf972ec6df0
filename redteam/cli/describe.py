"""`redteam describe`: finds out where a model type has its heads, neurons and norms, and proves it on numbers."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from redteam.cli import checkpoint_options as shared
from redteam.cli.printing import Json, Quiet, print_json
from redteam.errors import BadInput, UnwritableOutput
from redteam.files import write_atomically
from redteam.terminal import mention

if TYPE_CHECKING:
    from redteam.describe.describing import Description


def describe(
    model: Annotated[
        str,
        typer.Argument(
            metavar="MODEL",
            help="A folder with a config.json, such a file, a name on the hub (ORG/MODEL@REVISION), or a model type.",
        ),
    ],
    out: Annotated[
        Path | None, typer.Option(metavar="FILE", help="Write the description here, as JSON.", callback=shared.at_home)
    ] = None,
    force: Annotated[bool, typer.Option("--force", help="Replace FILE where it exists.")] = False,
    as_json: Json = False,
    quiet: Quiet = False,
) -> None:
    """Find out where a new model type has its heads, neurons and norms.

    Builds a small random network of that type with transformers, guesses by names and shapes what feeds what, and keeps
    of each guess what the network's outputs in float64 bear out: the largest group at every kind of sites, and that a
    lock from it comes off again. Weights of MODEL are not read. The file goes to protect, attack, audit and merge as
    --architecture FILE.
    """
    if out is not None and out.is_dir():
        raise UnwritableOutput(f"{out} is a folder; name a file.")
    if out is not None and out.exists() and not force:
        raise UnwritableOutput(f"{out} exists; give --force to replace it.")
    file = _file(model)
    from redteam.checkpoint.known import completed
    from redteam.describe.describing import describe as look
    from redteam.describe.shrink import complete

    config = complete(model) if file is None else completed(_read(file))
    with shared.working():
        found = look(config, mention)
    if out is not None:
        write_atomically(out, json.dumps(found.as_data(), indent=1) + "\n")
    if as_json:
        print_json(found.as_data())
        return
    _tell(found)
    if out is not None:
        typer.echo(f"Written: {out}")


def _file(model: str) -> Path | None:
    """The config that a path, or a name on the hub, stands for; `None` of a model type."""
    from redteam.hub import fetched_config, of_hub, on_disk

    path = Path(model).expanduser()
    if of_hub(path):
        path = on_disk(path, fetched_config)
    file = path / "config.json" if path.is_dir() else path
    if file.is_file():
        return file
    if path.is_dir() or path.suffix == ".json" or "/" in model:
        raise BadInput(f"{file} is not there; give a folder with a config.json, such a file, or a model type.")
    return None


def _read(file: Path) -> dict[str, Any]:
    try:
        config = json.loads(file.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, json.JSONDecodeError) as error:
        raise BadInput(f"The config {file} cannot be read ({error}); expected JSON.") from error
    if not isinstance(config, dict) or not isinstance(config.get("model_type"), str):
        raise BadInput(f"The config {file} names no model_type; expected that of a model of transformers.")
    return config


def _tell(found: Description) -> None:
    from rich.console import Console
    from rich.table import Table

    table = Table(box=None, header_style="bold", pad_edge=False)
    for name in ("kind", "part", "sites", "group", "change", "comes off to"):
        table.add_column(name, justify="right" if name in ("sites", "change", "comes off to") else "left")
    for row in found.rows:
        table.add_row(row.kind, row.part, str(row.sites), row.group, f"{row.change:.0e}", f"{row.back:.0e}")
    typer.echo(f"{found.model_type}, tried on a small random {found.network}:")
    Console().print(table)
    for remark in found.remarks:
        typer.echo(remark)
