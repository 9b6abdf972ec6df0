"""`redteam new KIND NAME`: writes a plugin that works, and its test, or a scenario's file for a folder of models."""

from __future__ import annotations

import importlib.util
import keyword
import re
import shlex
from pathlib import Path
from string import Template
from typing import Annotated

import typer

from redteam.cli import completion
from redteam.errors import BadInput, UnknownName, UnwritableOutput
from redteam.plugins.reference import DATA, Reference
from redteam.plugins.registry import CONTRACTED, SCENARIOS
from redteam.plugins.shipped import DEFAULT_PLAN
from redteam.terminal import mention

_KINDS = (*CONTRACTED, "report")
"""Each has a template."""

_FILE = f"mine{DATA}"
_NAME = re.compile(r"[a-z][a-z0-9]*(-[a-z0-9]+)*")


def new(
    kind: Annotated[
        str,
        typer.Argument(
            metavar="KIND",
            autocompletion=completion.words(*_KINDS),
            help="attack, defense, merger, scenario or report.",
        ),
    ],
    name: Annotated[
        str,
        typer.Argument(
            metavar="NAME",
            help="Lower-case words joined by hyphens; of a scenario also a folder of models and data, "
            "of a report the ending of its files.",
        ),
    ],
    out: Annotated[
        Path | None, typer.Option(help="The folder to write into [default: here]; the file, for a folder of models.")
    ] = None,
    victim: Annotated[
        str | None, typer.Option(help="In a folder of models the one to protect [default: the first].")
    ] = None,
) -> None:
    """Write a working plugin, and its test, to start from; or a scenario's file for models of your own.

    `redteam new scenario FOLDER` looks into the folder and writes FOLDER/mine.toml: base, experts and labelled data,
    with a comment wherever something is a guess.
    """
    if kind not in _KINDS:
        raise UnknownName.among("kind of plugin to write", kind, _KINDS)
    folder = Path(name).expanduser()
    if kind == "scenario" and (folder.is_dir() or "/" in name):
        _propose(folder, out, victim)
        return
    if victim is not None:
        raise BadInput(f"--victim is for a folder of models, and {name!r} is none.")
    out = out or Path()
    stem = _stem(name)
    if kind == "report" and "-" in name:
        raise BadInput(f"A report is called by the ending of its files, such as txt, not {name!r}.")
    values = {"name": name, "stem": stem, "Class": stem.title().replace("_", ""), "Kind": kind.title(), "kind": kind}
    files = {
        out / f"{stem}.py": _template(kind).substitute(values),
        out / f"test_{stem}.py": _template("report_test" if kind == "report" else "test").substitute(values),
    }
    for file in files:
        if file.exists():
            raise UnwritableOutput(f"{file} exists already; choose another name or another folder (--out).")
    try:
        out.mkdir(parents=True, exist_ok=True)
        for file, text in files.items():
            with file.open("x", encoding="utf-8") as opened:
                opened.write(text)
    except OSError as error:
        raise UnwritableOutput(f"{out} cannot be written ({error.strerror}); name another folder (--out).") from None
    plugin, test = files
    written = shlex.quote(str(Reference(f"{plugin}@{name}")))
    typer.echo(f"Wrote {plugin} and {test}. Next:")
    if kind != "report":
        typer.echo(f"  redteam check {written}")
    typer.echo(f"  pytest {shlex.quote(str(test))}")
    if kind == "report":
        typer.echo(f"  redteam report {Path('runs') / DEFAULT_PLAN} -o {written}=report.{name}")
    else:
        typer.echo(f"  redteam run --{kind} {written}")


def _propose(folder: Path, out: Path | None, victim: str | None) -> None:
    """Writes a scenario's file for the models in a folder."""
    if not folder.is_dir():
        raise BadInput(f"There is no folder {folder}; name one with models and labelled data.")
    file = out or folder / _FILE
    file = file / _FILE if file.is_dir() else file
    if file.suffix != DATA:
        raise BadInput(f"{file} is no name for a scenario's file; it must end in {DATA}.")
    if file.exists():
        raise UnwritableOutput(f"{file} exists already; move it away, or name another file (--out).")
    reader = SCENARIOS.reader(DATA)
    if reader is None or reader.spec.propose is None:
        raise BadInput(f"No scenario that is installed writes {DATA} files; install one that does.")
    mention(f"Looking into {folder}")
    text = reader.spec.propose(folder, file, victim)
    try:
        with file.open("x", encoding="utf-8") as opened:
            opened.write(text)
    except OSError as error:
        raise UnwritableOutput(f"{file} cannot be written ({error.strerror}); name another file (--out).") from None
    unsure = sum("UNSURE" in line for line in text.splitlines())
    typer.echo(
        text + "\n" + f"Wrote {file}" + (f", with {unsure} lines to look at (UNSURE)" * bool(unsure)) + ". Next:"
    )
    typer.echo(f"  redteam check {shlex.quote(str(Reference(str(file))))}")
    typer.echo(f"  redteam run --scenario {shlex.quote(str(Reference(str(file))))}")


def _template(name: str) -> Template:
    """One of the files in the folder `templates`, where `$name` and the like are to be filled in."""
    return Template(Path(__file__).with_name("templates").joinpath(f"{name}.py.txt").read_text(encoding="utf-8"))


def _stem(name: str) -> str:
    """The name as a module and a function are called.

    Raises:
        BadInput: If it is no name for a plugin, or one that Python or an installed module has taken.
    """
    if not _NAME.fullmatch(name):
        raise BadInput(
            f"A plugin's name is lower-case words joined by hyphens, not {name!r}; write for example my-own."
        )
    stem = name.replace("-", "_")
    if keyword.iskeyword(stem):
        raise BadInput(f"{name!r} is a word of Python's own; choose another name.")
    if importlib.util.find_spec(stem) is not None:
        raise BadInput(
            f"{name!r} is the name of a Python module already, which a file {stem}.py would hide; choose another."
        )
    return stem
