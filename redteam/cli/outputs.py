"""What commands that report share: the files that `-o` names, the gate that `--fail-on` sets, and what they print."""

from __future__ import annotations

import errno
import inspect
import os
import re
import shutil
import sys
import tempfile
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from redteam.cli.printing import print_answer
from redteam.errors import BadInput, UnwritableOutput

if TYPE_CHECKING:
    from redteam.evaluation.results import Results
    from redteam.plugins.contracts import ReportSpec
    from redteam.plugins.registry import Registry

Files = Annotated[
    list[Path] | None,
    typer.Option(
        "-o",
        "--report",
        metavar="FILE",
        help="Also write a report here: .html, .md, .leaderboard.md, .json, .junit.xml or .csv, or by a writer in a "
        "file, as in path/to/file.py@name=FILE; may be repeated.",
    ),
]
Pages = Annotated[
    list[Path] | None,
    typer.Option(
        "-o", "--report", metavar="FILE", help="Also write it here: .html or .json, of some also .md; may be repeated."
    ),
]
FailOn = Annotated[
    list[str] | None,
    typer.Option(
        "--fail-on",
        metavar="CONDITION",
        help="Leave with 1 where a verdict is so, as in 'verdict!=HOLDS-SO-FAR' or 'theft.high>=0.5'; may be repeated.",
    ),
]
_NAMED = re.compile(r"(.+\.py@[A-Za-z][\w-]*)=(.+)")
_PLAIN, _WIDEST = 80, 120  # columns that the answer takes where there is no terminal, and at most
Written = tuple[Path, Callable[[Any, Path], None]]


def writers(paths: Iterable[Path], registry: Registry[ReportSpec] | None = None) -> list[Written]:
    """For every file the writer of its extension, or the one that is named, before anything is computed.

    `mine.py@txt=page.txt` names a writer in a file, whatever the file is called that it is to write. Otherwise the
    longest registered extension that the name ends in counts, so that `x.junit.xml` has a writer of its own.

    Args:
        paths: The files.
        registry: Where to look for writers; those of a run's results by default.

    Raises:
        BadInput: If no writer is registered for it.
        UnwritableOutput: If nothing can be written there.
    """
    from redteam.plugins.reference import Reference
    from redteam.plugins.registry import REPORTS

    known_writers = REPORTS if registry is None else registry
    found = []
    for path in paths:
        if named := _NAMED.fullmatch(str(path)):
            file = Path(named[2]).expanduser()
            _check_writable(file)
            found.append((file, _of_a_file(known_writers.load(Reference.parse(named[1])).function, named[1])))
            continue
        path = path.expanduser()
        extensions = [name for name in known_writers.names if path.name.removesuffix(f".{name}") not in ("", path.name)]
        if not extensions:
            known = ", ".join(f".{name}" for name in known_writers.names)
            raise BadInput(f"No report can be written to {path.name}; the file's name must end in one of {known}.")
        _check_writable(path)
        found.append((path, known_writers.load(max(extensions, key=len)).function))
    return found


def _of_a_file(write: Callable[[Any, Path], None], name: str) -> Callable[[Any, Path], None]:
    """A writer in a file, with the folder of what it writes made for it, and its failure told as its own."""
    from redteam.errors import PluginFault, RedteamError
    from redteam.plugins.files import located

    def written(results: Any, path: Path) -> None:
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            write(results, path)
        except RedteamError:
            raise
        except OSError as error:
            why = error.strerror or str(error)
            raise UnwritableOutput(f"{path} cannot be written by {name} ({why}); name another place.") from error
        except Exception as error:
            raise PluginFault(f"The report {name} failed ({located(error, inspect.getfile(write))}).") from error

    return written


def require_apart(reports: list[Path], sources: list[Path]) -> None:
    """Refuses a report in a folder that is read, where it might take the place of a config.

    Raises:
        UnwritableOutput: In this case.
    """
    for path in reports:
        for source in sources:
            place, home = Path(os.path.realpath(path)), Path(os.path.realpath(source))
            if place == home or (home.is_dir() and place.parent == home):
                raise UnwritableOutput(f"{path} lies in {source}, which is read; name a file elsewhere.")


def require_no_record(reports: Iterable[Path], runs: Iterable[Path]) -> None:
    """Refuses a report in the place of what a run rests on: its results, or the plan that it announced.

    Args:
        reports: Where reports go.
        runs: The runs: folders, results files, archives.

    Raises:
        UnwritableOutput: In this case.
    """
    from redteam.archive import PLAN, RESULTS

    homes = [run.parent if run.name == RESULTS else run for run in runs]
    kept = {os.path.realpath(home / file) for home in homes for file in ("", RESULTS, PLAN)}
    for path in reports:
        if os.path.realpath(path) in kept:
            raise UnwritableOutput(f"{path} is a record of the run that it would be written over; name another file.")


def check_gate(expressions: Sequence[str] | None) -> None:
    """Reads what `--fail-on` says, before anything is computed.

    Raises:
        BadInput: If it cannot be read.
    """
    from redteam.evaluation.gate import Condition

    for text in expressions or ():
        Condition.parse(text)


def gated(results: Results, expressions: Sequence[str] | None) -> Results:
    """The results with the gate's answer in them, unchanged where nothing is asked."""
    from redteam.evaluation.gate import gate

    if not expressions:
        return results
    return results.model_copy(update={"gate": gate(results.told, expressions, results.figures)})


def tell(results: Results, *, verbose: bool, as_json: bool = False) -> None:
    """Prints the answer, and what the gate says.

    Args:
        results: What to speak of.
        verbose: Whether flags, controls and counts follow.
        as_json: Whether what `results.json` holds is printed in place of all that.
    """
    if as_json:
        print_answer(results.as_json())
        return
    from redteam.cli.answer import answer
    from redteam.evaluation.gate import told

    width = min(shutil.get_terminal_size().columns, _WIDEST) if sys.stdout.isatty() else _PLAIN
    typer.echo(f"\n{answer(results, verbose=verbose, width=width)}")
    if results.gate is not None:
        typer.echo(f"\n{told(results.gate)}")


def _check_writable(path: Path) -> None:
    try:
        if path.is_dir():
            raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR))
        with tempfile.TemporaryFile(dir=next(p for p in path.absolute().parents if p.exists())):
            pass
    except OSError as error:
        raise UnwritableOutput(
            f"{path} cannot be written ({error.strerror}); name a file in a folder that can."
        ) from None
