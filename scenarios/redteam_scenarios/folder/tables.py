"""Tables in the formats in which labelled data come: rows as they stand in the file, columns by name."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

from redteam.errors import BadInput

Row = Mapping[str, Any]
_SHOWN = 8


def read_table(path: Path) -> list[Row]:
    """The rows of a table.

    Args:
        path: A file that ends in .csv, .tsv, .jsonl, .json (a list of objects), .parquet, .arrow or .feather.

    Raises:
        BadInput: If it isn't there, is of another format, cannot be read, or is empty.
    """
    if not path.exists():
        raise BadInput(f"There is no {path}; name the file with the labelled data.")
    reader = _READERS.get(path.suffix.lower())
    if reader is None:
        raise BadInput(f"{path} is no table that is known by its ending; expected one of {', '.join(ENDINGS)}.")
    try:
        rows = reader(path)
    except (OSError, ValueError, UnicodeDecodeError) as error:
        raise BadInput(f"{path} cannot be read as {path.suffix} ({' '.join(str(error).split())}).") from None
    if not rows:
        raise BadInput(f"{path} has no rows; expected labelled data.")
    return rows


def column(rows: Sequence[Row], name: str, path: Path) -> list[Any]:
    """The values of a column.

    Raises:
        BadInput: If a row lacks it or has nothing in it; rows are counted from 1, a header not among them.
    """
    known = list(rows[0])
    if name not in known:
        shown = ", ".join(known[:_SHOWN]) + (", …" if len(known) > _SHOWN else "")
        raise BadInput(f"{path} has no column {name!r}; it has {shown}.")
    for number, row in enumerate(rows, start=1):
        value = row.get(name)
        if value is None or value != value or (isinstance(value, str) and not value.strip()):
            raise BadInput(f"Row {number} of {path} has nothing in {name!r}; fill it in or leave the row out.")
    return [row[name] for row in rows]


def _separated(path: Path) -> list[Row]:
    import csv

    with path.open(encoding="utf-8-sig", newline="") as file:
        reader = csv.DictReader(file, delimiter="\t" if path.suffix.lower() == ".tsv" else ",", strict=True)
        try:
            rows: list[Row] = list(reader)
        except csv.Error as error:
            raise ValueError(f"line {reader.line_num}: {error}") from None
    for number, row in enumerate(rows, start=1):
        if None in row:
            raise ValueError(f"row {number} has more fields than the header; quote fields that hold separators")
    return rows


def _lines(path: Path) -> list[Row]:
    rows: list[Row] = []
    with path.open(encoding="utf-8-sig") as file:
        for number, line in enumerate(file, start=1):
            if not line.strip():
                continue
            try:
                row = json.loads(line)
            except ValueError as error:
                raise ValueError(f"line {number}: {error}") from None
            if not isinstance(row, dict):
                raise ValueError(f"line {number} is no object")
            rows.append(row)
    return rows


def _list(path: Path) -> list[Row]:
    found = json.loads(path.read_text(encoding="utf-8-sig"))
    if not isinstance(found, list) or not all(isinstance(row, dict) for row in found):
        raise ValueError("expected a list of objects")
    return found


@dataclass(frozen=True)
class Stored:
    """A cell of a Parquet file that is read when it is asked for: a picture, of which there may be more than fit.

    Attributes:
        file: The file.
        group: The row group in it.
        row: The place in that.
        column: The column.
    """

    file: Path
    group: int
    row: int
    column: str

    def read(self) -> Any:
        """The value: bytes, or as `datasets` keep pictures a table of `bytes` and `path`."""
        return _group(self.file, self.group, self.column)[self.row].as_py()


@lru_cache(maxsize=1)
def _group(file: Path, group: int, column: str) -> Any:
    from pyarrow import parquet

    return parquet.ParquetFile(file).read_row_group(group, columns=[column]).column(column)


def _parquet(path: Path) -> list[Row]:
    from pyarrow import parquet, types

    file = parquet.ParquetFile(path)
    kinds = {field.name: field.type for field in file.schema_arrow}
    held = [name for name, kind in kinds.items() if types.is_binary(kind) or _has_bytes(kind)]
    read = [name for name in kinds if name not in held]
    rows: list[Row] = []
    for group in range(file.num_row_groups):
        count = file.metadata.row_group(group).num_rows
        values = file.read_row_group(group, columns=read).to_pylist() if read else [{}] * count
        rows += [
            {**row, **{name: Stored(path, group, place, name) for name in held}} for place, row in enumerate(values)
        ]
    return rows


def _has_bytes(kind: Any) -> bool:
    """Whether it is how `datasets` keep a picture."""
    from pyarrow import types

    return types.is_struct(kind) and any(field.name == "bytes" and types.is_binary(field.type) for field in kind)


def _arrow(path: Path) -> list[Row]:
    import pyarrow

    with pyarrow.memory_map(str(path)) as file:
        try:
            return pyarrow.ipc.open_file(file).read_all().to_pylist()  # type: ignore[no-any-return]
        except pyarrow.ArrowInvalid:
            file.seek(0)
            return pyarrow.ipc.open_stream(file).read_all().to_pylist()  # type: ignore[no-any-return]


_READERS: Mapping[str, Callable[[Path], list[Row]]] = {
    ".csv": _separated, ".tsv": _separated, ".jsonl": _lines, ".ndjson": _lines, ".json": _list,
    ".parquet": _parquet, ".arrow": _arrow, ".feather": _arrow,
}  # fmt: skip
ENDINGS = tuple(_READERS)
"""What the names of tables end in."""
