"""What every cell rests on beside its own plugins and settings: the engine's source, and the versions of libraries."""

from __future__ import annotations

import importlib.metadata
from functools import lru_cache
from pathlib import Path

from redteam.plugins.files import SNAPSHOT
from redteam.plugins.source import VERSIONED, WORDS, digest_over, engine_modules

ROOT = "redteam.evaluation.computations"
"""The module that computes cells; whatever it imports, numbers depend on."""

DATA = frozenset({".json", ".toml"})
"""Suffixes of files that are read as data where they lie beside a module that counts."""


@lru_cache(maxsize=1)
def engine_digest() -> str:
    """SHA-256 over every module that computes a cell, in hexadecimal.

    Modules that only some plugins reach stand in those plugins' digests.
    """
    return digest_over({name: SNAPSHOT(file) for name, file in engine_files().items()})


@lru_cache(maxsize=1)
def versions() -> dict[str, str]:
    """The versions of the libraries on which numbers depend."""
    return {name: importlib.metadata.version(name) for name in VERSIONED}


def engine_files() -> dict[str, Path]:
    """What `engine_digest` reads: the modules that `ROOT` imports but for `WORDS`, and data files beside them."""
    modules = {name: file for name, file in engine_modules([ROOT], SNAPSHOT).items() if name not in WORDS}
    packages = {name: file.parent for name, file in modules.items() if file.name == "__init__.py" and "." in name}
    data = {
        f"{name}/{file.relative_to(folder).as_posix()}": file
        for name, folder in packages.items()
        for file in folder.rglob("*")
        if file.suffix in DATA
    }
    return modules | data
