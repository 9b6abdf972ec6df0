"""A plugin's source: where it lies, its first line of documentation, and a digest, all without importing it."""

from __future__ import annotations

import ast
import hashlib
import importlib.util
from collections.abc import Iterator
from functools import lru_cache
from pathlib import Path


@lru_cache(maxsize=1024)
def locate(module: str) -> Path | None:
    """The file or folder that an import of `module` would read, `None` if there is none or it is no source.

    Unlike `importlib.util.find_spec`, it runs no parent package's `__init__`, so that listing never imports torch.
    A package gives its `__init__.py`, a folder without one the folder.
    """
    top, *rest = module.split(".")
    try:
        spec = importlib.util.find_spec(top)
    except (ImportError, ValueError):
        return None
    if spec is None:
        return None
    folders = [Path(folder) for folder in spec.submodule_search_locations or ()]
    found = Path(spec.origin) if spec.origin and spec.has_location else (folders[0] if folders else None)
    for name in rest:
        found = next((file for folder in folders if (file := _inside(folder, name)) is not None), None)
        if found is None:
            return None
        folders = [folder / name for folder in folders]
    return found if found is not None and (found.is_dir() or found.suffix == ".py") else None


def first_line(file: Path | None) -> str:
    """The first line of the docstring of a Python file, empty if there is none or the file can't be read."""
    if file is None:
        return ""
    try:
        documentation = ast.get_docstring(_parsed(file))
    except (OSError, SyntaxError, ValueError):
        return ""
    return (documentation or "").partition("\n")[0].strip()


def digest_of(module: str) -> str:
    """SHA-256 over a module and the modules of its own top-level package that it imports, however indirectly.

    Imports inside functions count too. Modules of other packages don't: their versions belong into a cell's name
    by themselves. A module without readable source counts by its name.

    Returns:
        64 hexadecimal digits.
    """
    pending, files = [module], dict[str, Path | None]()
    while pending:
        name = pending.pop()
        if name in files:
            continue
        files[name] = locate(name)
        pending.extend(_parents(name))
        file = files[name]
        if file is not None and file.is_file():
            pending.extend(other for other in _siblings(name, file) if other not in files)
    total = hashlib.sha256()
    for name in sorted(files):
        file = files[name]
        content = file.read_bytes() if file is not None and file.is_file() else b""
        total.update(f"{name}\0{len(content)}\0".encode() + content)
    return total.hexdigest()


def digest_of_file(file: Path) -> str:
    """SHA-256 of one file that is a plugin's whole source."""
    return hashlib.sha256(file.read_bytes()).hexdigest()


def _inside(folder: Path, name: str) -> Path | None:
    for candidate in (folder / name / "__init__.py", folder / f"{name}.py", folder / name):
        if candidate.exists():
            return candidate
    return None


def _parsed(file: Path) -> ast.Module:
    return ast.parse(file.read_bytes(), filename=str(file))


def _parents(module: str) -> Iterator[str]:
    parts = module.split(".")
    for length in range(1, len(parts)):
        yield ".".join(parts[:length])


def _siblings(module: str, file: Path) -> Iterator[str]:
    """Modules of the same top-level package that the file imports, as far as they exist."""
    top = module.partition(".")[0]
    package = module if file.name == "__init__.py" else module.rpartition(".")[0]
    try:
        tree = _parsed(file)
    except (SyntaxError, ValueError):
        return
    for node in ast.walk(tree):
        names: list[str] = []
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            base = node.module or ""
            if node.level:
                parts = package.split(".")
                base = ".".join([*parts[: len(parts) - node.level + 1], *([base] if base else [])])
            # `from package import name`: the name is a module or a member of one.
            names = [base, *(f"{base}.{alias.name}" for alias in node.names)]
        for name in names:
            if (name == top or name.startswith(f"{top}.")) and locate(name) is not None:
                yield name
