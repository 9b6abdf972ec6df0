"""CSV: one line per cell, for spreadsheets and data frames (RFC 4180, UTF-8)."""

import csv
import io
from pathlib import Path
from typing import Any

from redteam.evaluation.results import Cell, Results
from redteam.files import write_atomically

_PLACE = ("scenario", "seed", "victim", "defense", "key", "threat", "attack", "role", "merger", "status", "reason")


def write(results: Results, path: Path) -> None:
    """Writes the cells. Columns are `scores.theft`, `scores.fidelity.float32`, `tasks.NAME`, `cost.seconds` and so on.

    Text that a spreadsheet would take for a formula gets an apostrophe in front of it. Cells without a result leave the
    columns of figures empty.

    Raises:
        UnwritableOutput: If the file cannot be written.
    """
    rows = [_row(cell) for cell in results.cells]
    found = sorted({name for row in rows for name in row} - set(_PLACE))
    text = io.StringIO()
    writer = csv.DictWriter(text, [*_PLACE, *found], restval="", lineterminator="\r\n")
    writer.writeheader()
    writer.writerows(rows)
    write_atomically(path, text.getvalue())


def _row(cell: Cell) -> dict[str, Any]:
    row: dict[str, Any] = {name: _safe(getattr(cell, name)) for name in _PLACE}
    for part in ("scores", "tasks", "cost"):
        row |= _flat(part, getattr(cell, part))
    return row


def _flat(name: str, value: Any) -> dict[str, Any]:
    """Nested tables become columns with dots."""
    if not isinstance(value, dict):
        return {name: "" if value is None else _safe(value)}
    return {key: leaf for inner, deep in value.items() for key, leaf in _flat(f"{name}.{inner}", deep).items()}


def _safe(value: Any) -> Any:
    risky = isinstance(value, str) and value[:1] in ("=", "+", "-", "@", "\t", "\r", "\n")
    return f"'{value}" if risky else value
