"""Image classification: a folder of pictures with a folder for each class, or a table of paths."""

from __future__ import annotations

import io
import sys
from pathlib import Path
from typing import Any

import torch

from redteam.errors import BadInput
from redteam.tasks import Split
from redteam_scenarios.folder.datasets import is_dataset, tables_in
from redteam_scenarios.folder.models import pixels_by
from redteam_scenarios.folder.prepared import Parts
from redteam_scenarios.folder.schema import TaskEntry
from redteam_scenarios.folder.source import Source
from redteam_scenarios.folder.splits import SPLITS
from redteam_scenarios.folder.tables import Stored, column

Place = Path | bytes | Stored
Picture = tuple[Place, str]
"""Where it is, or its bytes; and its class."""

_ENDINGS = {".png", ".jpg", ".jpeg", ".bmp", ".gif", ".webp", ".tif", ".tiff"}
_AT_ONCE = 64


def classification(source: Source) -> Parts:
    """Pixels and classes of pictures."""
    split_up = splits(source)
    pixels_of = pixels_by(source.expert, *source.homes)
    parts: Parts = {}
    for split, pictures in split_up.items():
        pixels = [
            pixels_of([_read(path) for path, _ in pictures[start : start + _AT_ONCE]])
            for start in range(0, len(pictures), _AT_ONCE)
        ]
        labels = torch.tensor(source.labels([label for _, label in pictures]))
        parts[split] = ({"pixel_values": torch.cat(pixels).float()}, labels)
    return parts


def files_of(place: Path) -> list[Path]:
    """The files that the data consist of."""
    return sorted(path for path in place.rglob("*") if path.is_file()) if place.is_dir() else [place]


def labels_in(place: Path, entry: TaskEntry) -> list[str]:
    """The labels of a table's rows, or of a folder's pictures, each once.

    They come in the order of the classes' names where the data have some, else sorted, numbers by size.

    Raises:
        BadInput: If there is no such column.
    """
    if place.is_dir() and not is_dataset(place):
        return sorted({label for _, label in _in_folders(place)})
    found: set[str] = set()
    for table in tables_in(place).values():
        if entry.label in table.names:
            return list(table.names[entry.label])
        found |= {str(value).strip() for value in column(table.rows, entry.label, table.path)}
    return sorted(found, key=lambda text: (int(text), "") if text.isdigit() else (sys.maxsize, text))


def splits(source: Source) -> dict[Split, list[Picture]]:
    """Pictures and their classes, in splits; pictures of one content are one."""
    if any(place.is_dir() and not is_dataset(place) for place in source.data):
        lists = dict(zip(SPLITS, (_in_folders(place) for place in source.data), strict=False))
        return source.split_up(lists, _content)
    entry, rows = source.entry, source.labelled((source.entry.image,), (source.entry.label,))
    return source.split_up(
        {
            split: [(_place(row[entry.image], table.path), str(row[entry.label])) for row in held]
            for split, (table, held) in rows.items()
        },
        _content,
    )


def _place(value: Any, table: Path) -> Place:
    return value if isinstance(value, Stored) else _picture(value, table)


def _picture(value: Any, table: Path) -> Path | bytes:
    """A picture of a table: its bytes, or where it is."""
    if isinstance(value, bytes):
        return value
    if isinstance(value, dict):  # as datasets keep them
        held = value.get("bytes")
        if isinstance(held, bytes):
            return held
        value = value.get("path")
    return (table if table.is_dir() else table.parent) / str(value)


def _in_folders(place: Path) -> list[Picture]:
    found: list[Picture] = [
        (path, path.parent.relative_to(place).parts[0])
        for path in files_of(place)
        if path.suffix.lower() in _ENDINGS and path.parent != place
    ]
    if not found:
        raise BadInput(f"{place} holds no pictures in a folder for each class; expected for example {place}/cat/1.png.")
    return found


def _content(picture: Picture) -> str:
    import hashlib

    place = _fetched(picture[0])
    try:
        return hashlib.sha256(place if isinstance(place, bytes) else place.read_bytes()).hexdigest()
    except OSError as error:
        raise BadInput(f"The picture {place!s} cannot be read ({error.strerror}).") from None


def _fetched(place: Place) -> Path | bytes:
    return _picture(place.read(), place.file) if isinstance(place, Stored) else place


def _read(where: Place) -> object:
    from PIL import Image

    place = _fetched(where)
    try:
        with Image.open(io.BytesIO(place) if isinstance(place, bytes) else place) as image:
            return image.convert("RGB")
    except Exception as error:
        what = f"A picture of {len(place)} bytes in the data" if isinstance(place, bytes) else str(place)
        raise BadInput(f"{what} is no picture that can be read ({error}).") from None
