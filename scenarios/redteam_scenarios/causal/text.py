"""Text of installed packages, read file by file; nothing is imported or run, and nothing leaves the machine."""

from __future__ import annotations

import ast
import importlib.metadata
import inspect
import warnings
from collections.abc import Iterator
from pathlib import Path

from redteam.errors import BadInput
from redteam_scenarios.causal.recipe import Source

_LONGEST_LINE = 200  # on average; what is longer is data rather than text
_PLAIN = 0.99  # share of ASCII in what is read
_SHORTEST = 200  # characters of a docstring
_GENERATED, _OPENING = "@generated", 1000  # how code that a program wrote says so, and within how many characters


def files(source: Source, largest: int) -> dict[str, list[Path]]:
    """Package → its files of the source's kind, in the order of their names.

    Args:
        source: Which packages and which kind.
        largest: Bytes beyond which a file is left out.

    Raises:
        BadInput: If a package does not say which files it has.
    """
    found: dict[str, list[Path]] = {}
    for package in source.packages:
        listed = importlib.metadata.files(package)
        if not listed:
            raise BadInput(f"The package {package} does not list its files; install it from a wheel.")
        mine = sorted(one for one in set(listed) if one.suffix in source.suffixes)
        found[package] = [path for one in mine if 0 < _size(path := Path(str(one.locate()))) <= largest]
    return found


def texts(path: Path, source: Source) -> Iterator[str]:
    """The texts of a file: all of it, or its docstrings one by one; none where it is not text."""
    try:
        text = path.read_text(encoding="utf-8").replace("\r\n", "\n")
    except (OSError, UnicodeDecodeError):
        return
    if len(text) > _LONGEST_LINE * (text.count("\n") + 1) or len(text.encode("ascii", "ignore")) < _PLAIN * len(text):
        return
    if _GENERATED in text[:_OPENING]:
        return
    if source.docstrings:
        yield from _docstrings(text)
    else:
        yield text


def _docstrings(text: str) -> Iterator[str]:
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of other people's escapes
            tree = ast.parse(text)
    except (SyntaxError, ValueError, RecursionError):
        return
    for node in ast.walk(tree):
        if isinstance(node, (ast.Module, ast.ClassDef, ast.FunctionDef, ast.AsyncFunctionDef)):
            found = ast.get_docstring(node, clean=False)
            if found and len(cleaned := inspect.cleandoc(found)) >= _SHORTEST:
                yield cleaned


def _size(path: Path) -> int:
    try:
        return path.stat().st_size
    except OSError:
        return 0
