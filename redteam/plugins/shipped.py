"""TOML files that packages ship, by entry points: plans (`redteam.plans`) and gauntlets (`redteam.gauntlets`).

An entry `quick = "redteam_scenarios.plans:quick.toml"` means the file `quick.toml` in the folder of that package.
Nothing is imported to find it. The first comment line of the file says what it is for.
"""

from __future__ import annotations

import importlib.metadata
import tomllib
from collections.abc import Mapping
from functools import lru_cache
from pathlib import Path
from typing import Any

from redteam.errors import BadInput, UnknownName
from redteam.plugins.registry import Listed, package_of
from redteam.plugins.source import locate

KINDS = ("plan", "gauntlet")
"""What packages ship as files."""
DEFAULT_PLAN = "quick"
"""The plan that runs where none is named, and by whose scenario and merger others go that name none."""


def shipped_file(kind: str, name: str) -> Path:
    """The TOML file that a package ships under a name.

    Raises:
        UnknownName: If no package ships one of that name.
        BadInput: If two do, or the file is missing.
    """
    entries = {entry for entry in _entries(kind) if entry.name == name}
    if not entries:
        raise UnknownName.among(kind, name, {entry.name for entry in _entries(kind)})
    if len(entries) > 1:
        packages = " and ".join(sorted(package_of(entry) for entry in entries))
        raise BadInput(f"The {kind} {name!r} is provided by both {packages}; uninstall or rename one of them.")
    (entry,) = entries
    file = _file(entry)
    if file is None or not file.is_file():
        raise BadInput(
            f"The {kind} {name!r} of {package_of(entry)} names {entry.value}, which isn't there; reinstall it."
        )
    return file


@lru_cache(maxsize=1)
def defaults() -> Mapping[str, Any]:
    """What the default plan says, as it stands in its file.

    Raises:
        RedteamError: As `shipped_file`.
    """
    return tomllib.loads(shipped_file("plan", DEFAULT_PLAN).read_text(encoding="utf-8"))


def default_merger() -> str:
    """The merger of the default plan; of a gauntlet its first member."""
    named = str(defaults()["mergers"][0])
    if not any(entry.name == named for entry in _entries("gauntlet")):
        return named
    return str(tomllib.loads(shipped_file("gauntlet", named).read_text(encoding="utf-8"))["mergers"][0])


def shipped(kind: str) -> tuple[Listed, ...]:
    """What packages ship of a kind, sorted by name, with the first comment line of each."""
    found = (Listed(kind, entry.name, package_of(entry), _first_comment(_file(entry))) for entry in _entries(kind))
    return tuple(sorted(found, key=lambda listed: (listed.name, listed.package)))


def _entries(kind: str) -> importlib.metadata.EntryPoints:
    return importlib.metadata.entry_points(group=f"redteam.{kind}s")


def _file(entry: importlib.metadata.EntryPoint) -> Path | None:
    module, _, name = entry.value.partition(":")
    place = locate(module.strip())
    if place is None or not name.strip():
        return None
    return (place if place.is_dir() else place.parent) / name.strip()


def _first_comment(file: Path | None) -> str:
    try:
        first = file.read_text(encoding="utf-8").partition("\n")[0] if file is not None else ""
    except (OSError, UnicodeDecodeError):
        return ""
    return first.lstrip("# ").strip() if first.startswith("#") else ""
