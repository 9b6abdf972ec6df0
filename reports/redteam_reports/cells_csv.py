"""CSV: one line per cell, for spreadsheets and data frames (RFC 4180, UTF-8)."""

import csv
import io
import re
from pathlib import Path
from typing import Any

from redteam.evaluation.results import Cell, Results
from redteam.files import write_atomically

_PLACE = ("scenario", "seed", "victim", "defense", "key", "threat", "attack", "role", "merger", "status", "reason")
FORMULA = re.compile(r"'*(?:\s*[=+\-@＝＋－＠]|[\t\r\n])")
"""Text that a spreadsheet may compute (OWASP, CSV injection), with apostrophes in front of it or none."""


def write(results: Results, path: Path) -> None:
    """Writes the cells. Columns are `scores.theft`, `scores.fidelity.float32`, `tasks.NAME`, `cost.seconds` and so on.

    Text that a spreadsheet would take for a formula gets an apostrophe in front of it, and so does text that would look
    as if it had got one: without the first, what `FORMULA` matches behind it is as it was. Cells without a
    result leave the columns of figures empty.

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
    return f"'{value}" if isinstance(value, str) and FORMULA.match(value) else value
