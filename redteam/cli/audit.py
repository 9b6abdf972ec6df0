"""`redteam audit`: which lock is on a model, at which sites, and how much of it comes off."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from redteam.cli import checkpoint_options as shared
from redteam.cli import opening
from redteam.cli.outputs import Pages, require_apart, writers
from redteam.cli.printing import Json, Quiet, Verbose, print_answer, table_lines
from redteam.errors import BadInput

if TYPE_CHECKING:
    from redteam.audit import Audit


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
    from redteam.plugins.registry import AUDIT_REPORTS

    names = (str(model), str(base), str(other or ""))
    asked = writers(report or (), AUDIT_REPORTS)
    base, model = opening.on_disk(base), opening.on_disk(model)  # a slip in a path is said before torch is imported
    others = [] if other is None else [opening.on_disk(other)]
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
    with shared.working() as shown:
        found = look(opened[0], anchor, *opened[1:], device=device, names=names, progress=shown.advanced)
    for path, writer in asked:
        writer(found, path)
    if as_json:
        print_answer(found.model_dump_json(indent=1, by_alias=True))
        return
    _tell(found)
    for path, _ in asked:
        typer.echo(f"Written: {path}")


def _tell(found: Audit) -> None:
    from redteam.audit.words import LEGEND, table

    for sentence in found.summary:
        typer.echo(sentence)
    typer.echo("")
    for line in table_lines(table(found), folded=("found", "shifts", "other model")):
        typer.echo(line)
    typer.echo(f"\n{LEGEND}")
