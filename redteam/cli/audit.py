"""`redteam audit`: which lock is on a model, at which sites, and how much of it comes off."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from redteam.cli.progress import Progress

if TYPE_CHECKING:
    from redteam.audit import Audit

_LEGEND = (
    "Before and after: distance to the base in units of its norm, as the weights are and after the best legal fit."
)


def audit(
    model: Annotated[
        Path, typer.Argument(help="A Hugging Face folder, a safetensors file or an open_clip checkpoint.")
    ],
    base: Annotated[Path, typer.Option(help="The public model that it was made from.")],
    other: Annotated[
        Path | None, typer.Option(help="A second model made from that base: do the two share their gauges?")
    ] = None,
    device: Annotated[str, typer.Option(help="Where to compute: cpu or cuda.")] = "cpu",
    report: Annotated[
        list[Path] | None,
        typer.Option("-o", "--report", metavar="FILE", help="Also write it here: .json or .html; may be repeated."),
    ] = None,
) -> None:
    """Say which lock is on a model, at which sites, of which group, and how much of it comes off.

    Needs the base and no data, and reads layer by layer. A lock that moves the weights by less than training did is
    not told from training.
    """
    from redteam.audit import audit as look
    from redteam.checkpoint import Checkpoint
    from redteam.cli.outputs import writers
    from redteam.cli.rewriting import named_alike, one_thread
    from redteam.plugins.registry import AUDIT_REPORTS

    asked = writers(report or (), AUDIT_REPORTS)
    paths = (model, base) if other is None else (model, base, other)
    anchor = Checkpoint.open(base)
    # An adapter is audited merged into its base.
    opened = named_alike(*(anchor if path is base else Checkpoint.open(path, base=anchor) for path in paths))
    names = (*map(str, paths), "") if other is None else tuple(map(str, paths))
    with one_thread(), Progress() as shown:
        found = look(*opened, device=_usable(device), names=names, progress=shown.advanced)  # type: ignore[arg-type]
    for path, writer in asked:
        writer(found, path)
    _tell(found)
    for path, _ in asked:
        typer.echo(f"Written: {path}")


def _usable(device: str) -> str:
    import torch

    from redteam.errors import BadSetting

    try:
        torch.empty(1, device=device)
    except (RuntimeError, AssertionError):
        raise BadSetting(
            f"The device {device!r} cannot be used here; leave --device out to compute on the CPU."
        ) from None
    return device


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
