"""`redteam report`: reports on a finished run, without computing any of it again."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated

import typer

from redteam.cli.outputs import FailOn, Files, check_gate, gated, require_no_record, tell, writers
from redteam.cli.printing import Details, Json


def report(
    folders: Annotated[
        list[Path] | None,
        typer.Argument(
            metavar="DIR...",
            help="The folder of a finished run, or its archive; of several for one report on all.",
            show_default=False,
        ),
    ] = None,
    files: Files = None,
    fail_on: FailOn = None,
    as_json: Json = False,
    verbose: Details = False,
    schema: Annotated[bool, typer.Option("--schema", help="Print the JSON Schema of results.json, and leave.")] = False,
) -> None:
    """Write reports on a finished run, or print its verdicts; on several runs, side by side.

    Exit codes are those of the run: 0 held or nothing asked, 1 the gate failed, 2 something could not be evaluated.
    """
    from redteam.evaluation.joined import joined
    from redteam.evaluation.results import Results

    if schema:
        typer.echo(json.dumps(Results.published_schema(), indent=1, ensure_ascii=False))
        return
    if not folders:
        raise typer.BadParameter("name the folder of a finished run, or ask for --schema.", param_hint="DIR")
    check_gate(fail_on)
    results = gated(joined({str(folder): Results.read(folder) for folder in folders}), fail_on)
    found = writers(files or ())
    require_no_record((path for path, _ in found), folders)
    for path, writer in found:
        writer(results, path)
        if not as_json:
            typer.echo(f"report: {path}")
    if as_json or not found:
        tell(results, verbose=verbose, as_json=as_json)
    raise typer.Exit(results.exit_code)
