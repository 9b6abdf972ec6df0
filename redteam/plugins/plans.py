"""Plans that packages ship: TOML files named by entry points of the group `redteam.plans`.

An entry `quick = "redteam_scenarios.plans:quick.toml"` means the file `quick.toml` in the folder of that package.
Nothing is imported to find it. The first comment line of the file says what the plan is for.
"""

from __future__ import annotations

import importlib.metadata
from pathlib import Path

from redteam.errors import BadInput, UnknownName
from redteam.plugins.registry import Listed, package_of
from redteam.plugins.source import locate

GROUP = "redteam.plans"


def plan_file(name: str) -> Path:
    """The TOML file of a plan that a package ships.

    Raises:
        UnknownName: If no package ships a plan of that name.
        BadInput: If two do, or the file is missing.
    """
    entries = {entry for entry in importlib.metadata.entry_points(group=GROUP) if entry.name == name}
    if not entries:
        known = {entry.name for entry in importlib.metadata.entry_points(group=GROUP)}
        raise UnknownName.among("plan", name, known)
    if len(entries) > 1:
        packages = " and ".join(sorted(package_of(entry) for entry in entries))
        raise BadInput(f"The plan {name!r} is provided by both {packages}; uninstall or rename one of them.")
    (entry,) = entries
    file = _file(entry)
    if file is None or not file.is_file():
        raise BadInput(
            f"The plan {name!r} of {package_of(entry)} names {entry.value}, which isn't there; reinstall it."
        )
    return file


def listed_plans() -> tuple[Listed, ...]:
    """The plans that packages ship, sorted by name, with the first comment line of each."""
    entries = importlib.metadata.entry_points(group=GROUP)
    found = (Listed("plan", entry.name, package_of(entry), _first_comment(_file(entry))) for entry in entries)
    return tuple(sorted(found, key=lambda listed: (listed.name, listed.package)))


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
