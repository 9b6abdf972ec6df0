"""Modules of one package import one another in one direction, inside functions and for types alone included."""

from __future__ import annotations

import ast
from graphlib import CycleError, TopologicalSorter
from pathlib import Path

import pytest

ENGINE = Path(__file__).parent.parent / "redteam"
LEFT_OUT = {"evaluation", "testing"}
"""Where there are cycles still."""
PACKAGES = sorted(
    folder.name for folder in ENGINE.iterdir() if (folder / "__init__.py").is_file() and folder.name not in LEFT_OUT
)


def imports(source: str, known: set[str]) -> set[str]:
    """The known modules that a module imports, at any depth of its source."""
    found: set[str] = set()
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
            found |= {f"{node.module}.{alias.name}" for alias in node.names} | {node.module}
    return found & known


def cycle(sources: dict[str, str]) -> list[str] | None:
    """A cycle among modules, given their sources; None if there is none."""
    try:
        TopologicalSorter({name: imports(text, set(sources)) for name, text in sources.items()}).prepare()
    except CycleError as error:
        return list(error.args[1])
    return None


def test_a_cycle_is_found_wherever_the_import_stands() -> None:
    sources = {
        "p.a": "from p.b import x",
        "p.b": "from typing import TYPE_CHECKING\nif TYPE_CHECKING:\n    from p.c import y",
        "p.c": "def f():\n    import p.a",
    }
    assert set(cycle(sources) or ()) == {"p.a", "p.b", "p.c"}
    assert cycle({**sources, "p.c": "import json"}) is None


@pytest.mark.parametrize("package", PACKAGES)
def test_no_modules_of_a_package_import_one_another(package: str) -> None:
    files = [path for path in (ENGINE / package).rglob("*.py") if path.name != "__init__.py"]
    sources = {
        ".".join(("redteam", *path.relative_to(ENGINE).with_suffix("").parts)): path.read_text() for path in files
    }
    assert sources
    assert cycle(sources) is None
