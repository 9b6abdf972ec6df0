"""Results files as anybody may send them: what is read of them, and what is refused."""

from __future__ import annotations

import gzip
import zlib
from pathlib import Path
from typing import TYPE_CHECKING

from redteam.archive import LARGEST_RESULTS, RESULTS, is_archive, read_archive
from redteam.errors import BadInput
from redteam.terminal import disarmed_json

if TYPE_CHECKING:
    from redteam.evaluation.results import Results

_NAMED = ("scenarios", "defenses", "attacks", "mergers", "threats")


def text_of(file: Path) -> str:
    """What `results.json` says, which may be compressed or lie in an archive, without what a terminal would obey.

    Raises:
        BadInput: If it is damaged or too large.
        OSError, ValueError: If it cannot be read, or is no text.
    """
    return disarmed_json(_content(file).decode("utf-8"))


def require_whole(results: Results) -> None:
    """Refuses what readers take for granted and no type says.

    Raises:
        ValueError: If rows lead nowhere, or the plan is none.
    """
    also = results.plan.get("also", [])
    products = [results.plan, *(also if isinstance(also, list) else [also])]
    if not isinstance(results.plan.get("name"), str) or not all(isinstance(one, dict) for one in products):
        raise ValueError("the plan")
    for named in (one.get(kind, []) for one in products for kind in _NAMED):
        if not isinstance(named, list) or not all(isinstance(text, str) for text in named):
            raise ValueError("what the plan names")
    if not all(0 <= index < len(results.controls) for row in results.verdicts for index in row.rests_on):
        raise ValueError("controls of verdicts")
    if not all(isinstance(value, (int, float)) for name, value in results.thresholds.items() if name != "digest"):
        raise ValueError("limits")


def _content(file: Path) -> bytes:
    """What `results.json` says, which may be compressed or lie in an archive."""
    if is_archive(file):
        return read_archive(file)[RESULTS]
    if file.suffix != ".gz":
        return file.read_bytes()
    try:
        with gzip.open(file) as unpacked:
            content = unpacked.read(LARGEST_RESULTS + 1)
    except (EOFError, zlib.error, gzip.BadGzipFile):
        raise BadInput(f"{file} is no whole gzip file; fetch or write it again.") from None
    if len(content) > LARGEST_RESULTS:
        raise BadInput(f"{file} holds more than results ever take; ask for it again.")
    return content
