"""Image classification: a folder of pictures with a folder for each class, or a table of paths."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import torch

from redteam.errors import BadInput
from redteam.tasks import Split
from redteam_scenarios.folder.models import pixels_by
from redteam_scenarios.folder.prepared import Parts
from redteam_scenarios.folder.schema import TaskEntry
from redteam_scenarios.folder.source import Source
from redteam_scenarios.folder.splits import by_file, by_share
from redteam_scenarios.folder.tables import column, read_table

Picture = tuple[Path, str]
"""Where it is, and its class."""

_ENDINGS = {".png", ".jpg", ".jpeg", ".bmp", ".gif", ".webp", ".tif", ".tiff"}
_AT_ONCE = 64


def classification(source: Source) -> Parts:
    """Pixels and classes of pictures."""
    split_up = _splits(source)
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
    """The labels of a table's rows, or of a folder's pictures, as they stand there."""
    if place.is_dir():
        return [label for _, label in _in_folders(place)]
    return [str(value).strip() for value in column(read_table(place), entry.label, place)]


def _splits(source: Source) -> dict[Split, list[Picture]]:
    entry, lists = source.entry, [_listed(source, place) for place in source.data]
    if len(lists) > 1:
        given: dict[Split, Sequence[Picture]] = dict(zip(("train", "validation", "test"), lists, strict=True))
        return by_file(given, _content, limit=entry.limit, task=source.name)
    return by_share(
        lists[0], _content, validation=entry.validation, test=entry.test, limit=entry.limit, task=source.name
    )


def _listed(source: Source, place: Path) -> list[Picture]:
    if not place.is_dir():
        rows = read_table(place)
        names = [place.parent / str(name) for name in column(rows, source.entry.image, place)]
        return list(zip(names, map(str, column(rows, source.entry.label, place)), strict=True))
    return _in_folders(place)


def _in_folders(place: Path) -> list[Picture]:
    found = [
        (path, path.parent.relative_to(place).parts[0])
        for path in files_of(place)
        if path.suffix.lower() in _ENDINGS and path.parent != place
    ]
    if not found:
        raise BadInput(f"{place} holds no pictures in a folder for each class; expected for example {place}/cat/1.png.")
    return found


def _content(picture: Picture) -> str:
    import hashlib

    try:
        return hashlib.sha256(picture[0].read_bytes()).hexdigest()
    except OSError as error:
        raise BadInput(f"The picture {picture[0]} cannot be read ({error.strerror}).") from None


def _read(path: Path) -> object:
    from PIL import Image

    try:
        with Image.open(path) as image:
            return image.convert("RGB")
    except Exception as error:
        raise BadInput(f"{path} is no picture that can be read ({error}).") from None
