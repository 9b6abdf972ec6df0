"""Docstrings of installed packages, by their source: nothing is imported or run."""

from __future__ import annotations

import ast
import importlib.util
import re
import warnings
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from redteam.errors import BadInput

_HEADING = re.compile(r"^(?P<title>[A-Z][A-Za-z ]+)\n-{3,}[ \t]*$", re.MULTILINE)
_ENTRY = re.compile(r"(?P<name>\*{0,2}\w[\w, *]*?)\s*:\s*(?P<type>\S.*)")
_PASSED_OVER = {"test", "tests", "testing", "_vendor", "externals"}
SUMMARY = "Summary"


@dataclass(frozen=True)
class Docstring:
    """Of a function, method or class.

    Attributes:
        package: The package's name.
        module: Package and path of the file.
        text: As `ast.get_docstring` cleans it.
    """

    package: str
    module: str
    text: str


def docstrings(package: str) -> Iterator[Docstring]:
    """The docstrings of an installed package, module by module in the order of their paths.

    Tests and copies of other packages are passed over, and so is what is no Python of this version.

    Raises:
        BadInput: If the package is not installed.
    """
    root = folder_of(package)
    for file in sorted(root.rglob("*.py"), key=lambda path: path.relative_to(root).as_posix()):
        path = file.relative_to(root)
        if not _PASSED_OVER & {*path.parts}:
            for text in _of_file(file):
                yield Docstring(package, f"{package}/{path.as_posix()}", text)


def folder_of(package: str) -> Path:
    """Where an installed package's source is.

    Raises:
        BadInput: If it is not installed.
    """
    spec = importlib.util.find_spec(package)
    if spec is None or not spec.submodule_search_locations:
        raise BadInput(f"The package {package!r} is not installed, and its docstrings are read; install it.")
    return Path(spec.submodule_search_locations[0])


def sections(text: str) -> Iterator[tuple[str, str]]:
    """Title and body of a docstring's sections in numpy's style; what stands before them is its summary."""
    headings = [*_HEADING.finditer(text)]
    starts = [0, *(heading.end() for heading in headings)]
    stops = [*(heading.start() for heading in headings), len(text)]
    titles = [SUMMARY, *(heading["title"] for heading in headings)]
    for title, start, stop in zip(titles, starts, stops, strict=True):
        yield title, text[start:stop]


def entries(body: str) -> Iterator[tuple[str, str]]:
    """Type and description (its first paragraph) of each entry `name : type` of a section."""
    found: list[tuple[str, list[str]]] = []
    for line in body.splitlines():
        if line[:1].strip():
            entry = _ENTRY.fullmatch(line.strip())
            found.append((entry["type"] if entry else "", []))
        elif found:
            found[-1][1].append(line.strip())
    for kind, lines in found:
        if kind:
            yield kind, " ".join("\n".join(lines).strip().partition("\n\n")[0].split())


def _of_file(file: Path) -> Iterator[str]:
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of escapes that are none
            tree = ast.parse(file.read_bytes())
    except (OSError, SyntaxError, ValueError):
        return
    for node in ast.walk(tree):
        if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef)) and (
            text := ast.get_docstring(node)
        ):
            yield text
