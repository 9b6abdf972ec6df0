"""`redteam submit`: a finished run as one archive, for a leaderboard or another machine."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Annotated

import typer

from redteam.cli.printing import Json, print_json


def submit(
    folder: Annotated[Path, typer.Argument(metavar="DIR", help="The folder of a finished run.", show_default=False)],
    out: Annotated[
        Path | None, typer.Option(metavar="FILE", help="Where the archive goes [default: DIR.redteam.tar.gz].")
    ] = None,
    force: Annotated[bool, typer.Option("--force", help="Replace the archive if it is there already.")] = False,
    as_json: Json = False,
) -> None:
    """Pack a finished run into one archive: results, plan, digests and the files that the plan names.

    It holds text alone, no key, no weights, no path of this machine, and is the same for the same run. redteam report
    takes archives wherever it takes folders, and builds a leaderboard of several: -o board.leaderboard.md.
    """
    from redteam.archive import digest, packed, read_archive
    from redteam.errors import BadInput, UnwritableOutput
    from redteam.evaluation.submission import members_of
    from redteam.files import write_atomically

    members = members_of(folder)
    try:
        made = packed(members)
    except BadInput as error:
        raise BadInput(f"{folder} cannot be submitted: {error}.") from None
    path = out or Path(f"{folder.resolve().name}.redteam.tar.gz")
    if os.path.lexists(path) and not force:
        raise UnwritableOutput(f"{path} exists already; name another file with --out, or replace it with --force.")
    write_atomically(path, made)
    sizes, found = {name: len(members[name]) for name in sorted(members)}, digest(read_archive(path))
    if as_json:
        print_json({"archive": str(path), "bytes": len(made), "digest": found, "members": sizes})
        return
    for name, size in sizes.items():
        typer.echo(f"  {size:>10,} bytes  {name}")
    typer.echo(f"archive: {path}, {len(made):,} bytes, digest {found}")
