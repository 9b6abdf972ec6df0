"""`redteam audit`: which lock is on a model, at which sites, and how much of it comes off."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from redteam.cli import checkpoint_options as shared
from redteam.cli import opening
from redteam.cli.outputs import Pages, require_apart, writers
from redteam.cli.printing import Json, Quiet, Verbose
from redteam.errors import BadInput

if TYPE_CHECKING:
    from redteam.audit import Audit

_LEGEND = (
    "Before and after: distance to the base in units of its norm, as the weights are and after the best legal fit."
)


def audit(
    model: shared.Model,
    base: Annotated[Path, typer.Option(help="The public model that it was made from.", callback=shared.at_home)],
    other: Annotated[
        Path | None,
        typer.Option(
            help="A second model made from that base: do the two share their gauges?", callback=shared.at_home
        ),
    ] = None,
    device: Annotated[str, typer.Option(help="Where to compute: cpu, cuda, or cuda:1 of several GPUs.")] = "cpu",
    architecture: shared.Description = None,
    dequantise: shared.Dequantise = False,
    report: Pages = None,
    as_json: Json = False,
    quiet: Quiet = False,
    verbose: Verbose = False,
) -> None:
    """Say which lock is on a model, at which sites, of which group, and how much of it comes off.

    Needs the base and no data, and reads layer by layer. A lock that moves the weights by less than training did is
    not told from training.
    """
    from redteam.devices import require_device
    from redteam.files import require_model
    from redteam.plugins.registry import AUDIT_REPORTS

    others = [] if other is None else [other]
    for path in (base, model, *others):  # a slip in a path is said before torch is imported
        require_model(path)
    asked = writers(report or (), AUDIT_REPORTS)
    require_apart([path for path, _ in asked], [model, base, *others])
    require_device(device)
    from redteam.audit import audit as look
    from redteam.checkpoint import shared_tensors
    from redteam.checkpoint.parts import part_of

    anchor, *opened = opening.open_alike(base, model, *others, dequantise=shared.read_as(dequantise))
    opening.tell_description(architecture, opened[0], model)
    anchor = part_of(anchor, opened[0])
    if not shared_tensors(opened[0], anchor):
        raise BadInput(
            f"The model {model} shares no tensor of one name and shape with its base; check that they belong together."
        )
    names = (str(model), str(base), str(other or ""))
    with shared.working() as shown:
        found = look(opened[0], anchor, *opened[1:], device=device, names=names, progress=shown.advanced)
    for path, writer in asked:
        writer(found, path)
    if as_json:
        typer.echo(found.model_dump_json(indent=1, by_alias=True))
        return
    _tell(found)
    for path, _ in asked:
        typer.echo(f"Written: {path}")


def _tell(found: Audit) -> None:
    from rich.console import Console
    from rich.table import Table

    from redteam.audit import rows
    from redteam.audit.words import percent

    for sentence in found.summary:
        typer.echo(sentence)
    shared = any(row.shared for row in rows(found))
    table = Table(box=None, header_style="bold", pad_edge=False)
    columns = (
        "site",
        "layers",
        "found",
        "before",
        "after",
        "comes off",
        "shifts",
        *(("other model",) if shared else ()),
    )
    for column in columns:
        table.add_column(column, no_wrap=column not in ("found", "shifts", "other model"))
    for row in rows(found):
        figures = ("–" if x is None else percent(x) for x in (row.before, row.after, row.comes_off))
        shifts = ", ".join(f"{name} {size:.2g}" for name, size in row.shifts) or "–"
        table.add_row(row.kind, row.layers, row.found, *figures, shifts, *((row.shared,) if shared else ()))
    typer.echo("")
    # Wide enough for a row where it is not a terminal, whose width rich guesses at 80.
    console = Console(width=None if Console().is_terminal else 140, highlight=False)
    with console.capture() as captured:
        console.print(table)
    typer.echo("\n".join(line.rstrip() for line in captured.get().splitlines()))
    typer.echo(f"\n{_LEGEND}")
