"""The user's cache: what scenarios train and prepare, in folders `ROOT/SCENARIO/ENTRY`.

A note `ROOT/.made/SCENARIO/ENTRY.json` says by which engine an entry was made. An entry is found again by its name,
which holds a digest of all that went into it: what is removed is made anew when it is needed.
"""

from __future__ import annotations

import importlib.metadata
import json
import os
import re
import shutil
import time
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from redteam.errors import UnwritableOutput
from redteam.files import write_atomically
from redteam.plugins.registry import SCENARIOS

ABANDONED = 24 * 3600.0
"""Seconds after which an unfinished folder belongs to nobody."""
UNFINISHED = ".unfinished"
_NOTES = ".made"
_ENTRY = re.compile(r"(?:[\w.-]*-)?[0-9a-f]{16,64}")
_SEED = re.compile(r"seed(\d+)-")


@dataclass(frozen=True)
class Entry:
    """One folder of the cache.

    Attributes:
        path: Where it lies.
        scenario: The scenario that made it.
        seed: Of which seed it is; `None` where it serves several.
        size: Bytes.
        used: When one of its files was read or written last, in seconds since 1970, as far as the file system keeps it.
        engine: Version and digest of the engine that made it; empty where that was not kept.
    """

    path: Path
    scenario: str
    seed: int | None
    size: int
    used: float
    engine: str


def cache_root() -> Path:
    """`$REDTEAM_CACHE`, or the platform's folder for caches."""
    if chosen := os.environ.get("REDTEAM_CACHE"):
        return Path(chosen).expanduser()
    import platformdirs

    return Path(platformdirs.user_cache_dir("redteam"))


def this_engine() -> str:
    """The version of this program, and what its numbers rest on."""
    from redteam.evaluation.digest import engine_digest

    return f"{importlib.metadata.version('merge-redteam')} {engine_digest()[:12]}"


def note_engine(entry: Path) -> None:
    """Keeps which engine made a new entry."""
    with suppress(UnwritableOutput):  # the entry is there, and serves without
        write_atomically(_note(entry), json.dumps({"engine": this_engine()}))


def entries() -> tuple[Entry, ...]:
    """What the cache holds, by scenario and name.

    What is named unlike an entry of an installed scenario, and has no note, is not one, nor is a link: a
    cache that was set to somebody's home holds more than entries, and the rest is never touched.
    """
    root = cache_root()
    homes = sorted(home for home in root.iterdir() if _is_own(home)) if root.is_dir() else []
    return tuple(_read(path) for home in homes for path in sorted(home.iterdir()) if _is_entry(path))


def remove(entry: Entry) -> None:
    """Removes an entry: first its name, so that nobody finds half of it.

    Raises:
        UnwritableOutput: If it cannot be removed, or lies outside the cache.
    """
    path = entry.path
    if path.parent.parent != cache_root() or not _is_own(path.parent) or not _is_entry(path):
        raise UnwritableOutput(f"{path} is no folder of the cache {cache_root()}; it was left alone.")
    gone = path.with_name(f".{path.name.strip('.')}-{os.getpid()}{UNFINISHED}")
    try:
        path.rename(gone)
        shutil.rmtree(gone)
        _note(path).unlink(missing_ok=True)
    except FileNotFoundError:
        return  # another process was first
    except OSError as error:
        raise UnwritableOutput(
            f"{path} cannot be removed ({error.strerror}); see who may write in {path.parent}."
        ) from None


def held(folder: Path) -> int:
    """Bytes of all files in a folder; links are not followed, and what cannot be read counts as nothing."""
    return sum(state.st_size for state in _states(folder))


def _states(folder: Path) -> Iterator[os.stat_result]:
    for home, _, files in os.walk(folder):
        for name in files:
            try:
                yield (Path(home) / name).lstat()
            except OSError:
                continue


def _read(path: Path) -> Entry:
    states = list(_states(path))
    used = max((max(state.st_atime, state.st_mtime) for state in states), default=path.stat().st_mtime)
    seed = _SEED.search(path.name)
    size = sum(state.st_size for state in states)
    return Entry(path, path.parent.name, int(seed[1]) if seed else None, size, used, _engine(path))


def _engine(path: Path) -> str:
    try:
        return str(json.loads(_note(path).read_text(encoding="utf-8"))["engine"])
    except (OSError, ValueError, KeyError, TypeError):
        return ""


def _note(entry: Path) -> Path:
    return entry.parent.parent / _NOTES / entry.parent.name / f"{entry.name}.json"


def _is_entry(path: Path) -> bool:
    named_alike = path.parent.name in SCENARIOS and (_ENTRY.fullmatch(path.name) or _is_abandoned(path))
    return _is_own(path) and bool(named_alike or _note(path).is_file())


def _is_own(path: Path) -> bool:
    return path.is_dir() and not path.is_symlink()


def _is_abandoned(path: Path) -> bool:
    """Whether it was being written, or removed, by a process that ended since."""
    return path.name.endswith(UNFINISHED) and time.time() - path.stat().st_mtime > ABANDONED
