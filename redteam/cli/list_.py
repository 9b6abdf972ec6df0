"""`redteam list`: what is installed, read from sources without importing any of it."""

from __future__ import annotations

import sys
from collections.abc import Iterable
from dataclasses import asdict
from typing import Annotated

import typer

from redteam.cli import completion
from redteam.cli.completion import ALL_KINDS, THREAT
from redteam.cli.printing import Json, print_json
from redteam.errors import UnknownName
from redteam.plugins.registry import REGISTRIES, Listed
from redteam.plugins.shipped import shipped
from redteam.threat import THREAT_MODELS


def list_(
    kind: Annotated[
        str | None,
        typer.Argument(
            metavar="[KIND]",
            autocompletion=completion.words(*ALL_KINDS),
            help="scenario, defense, attack, merger, report, plan, gauntlet or threat.",
        ),
    ] = None,
    as_json: Json = False,
) -> None:
    """List plugins, plans, gauntlets and threat models: kind, name, package and one line about each."""
    found = listed(kind)
    if as_json:
        print_json([asdict(one) for one in found])
    elif sys.stdout.isatty():
        _print_table(found)
    else:
        for one in found:
            typer.echo("\t".join((one.kind, one.name, one.package, one.summary)))


def listed(kind: str | None = None) -> tuple[Listed, ...]:
    """Everything installed, or one kind of it, written in the singular or plural.

    Raises:
        UnknownName: If there is no such kind.
    """
    kinds = ALL_KINDS
    if kind is not None:
        wanted = kind.lower()
        wanted = wanted if wanted in kinds else wanted.removesuffix("s")
        if wanted not in kinds:
            raise UnknownName.among("kind of plugin", kind, kinds)
        kinds = (wanted,)
    return tuple(one for each in kinds for one in _of(each))


def _of(kind: str) -> tuple[Listed, ...]:
    if kind == THREAT:
        return tuple(Listed(kind, name, "merge-redteam", THREAT_MODELS[name]().words) for name in THREAT_MODELS)
    return REGISTRIES[kind].listing() if kind in REGISTRIES else shipped(kind)


def _print_table(found: Iterable[Listed]) -> None:
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    table = Table(box=None, header_style="bold", pad_edge=False)
    for column in ("kind", "name", "package", ""):
        table.add_column(column, no_wrap=column != "", overflow="fold")
    for one in found:
        table.add_row(*map(Text, (one.kind, one.name, one.package, one.summary)))
    Console().print(table)
