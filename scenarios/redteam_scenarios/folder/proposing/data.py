"""Labelled data in a folder, whose they are by their names, and what their columns are by their headers."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from difflib import SequenceMatcher
from pathlib import Path
from typing import Any

from redteam_scenarios.folder.datasets import tables_in
from redteam_scenarios.folder.proposing.models import DEEP
from redteam_scenarios.folder.tables import Row

TABLES = (".csv", ".tsv", ".jsonl", ".ndjson", ".parquet", ".arrow", ".feather")
_PICTURES = {".png", ".jpg", ".jpeg", ".bmp", ".gif", ".webp", ".tif", ".tiff"}
_SPLITS = {"train": "train", "training": "train", "test": "test", "validation": "validation", "valid": "validation",
           "val": "validation", "dev": "validation"}  # fmt: skip
_PAIRS = (
    ("sentence1", "sentence2"), ("premise", "hypothesis"), ("question1", "question2"), ("text1", "text2"),
    ("question", "sentence"), ("question", "passage"), ("question", "context"), ("query", "passage"),
)  # fmt: skip
_TEXT = ("text", "sentence", "content", "review", "document", "comment", "message", "body", "tweet", "utterance",
         "question", "input", "prompt", "title")  # fmt: skip
_LABEL = ("label", "labels", "class", "target", "category", "sentiment", "intent", "topic", "y")
_IMAGE = ("image", "path", "file", "filename", "file_name", "image_path")
_MOST = 200
"""Labels that a classification has at most."""
_LIKE = 0.75
"""How alike two names are that mean the same."""


@dataclass(frozen=True)
class Data:
    """Tables, a dataset, or a folder of pictures.

    Attributes:
        name: What they are called, without what says which split they are.
        train, validation, test: Where they are; `train` alone where nothing is split.
        pictures: Whether it is a folder of pictures with a folder for each class.
    """

    name: str
    train: Path
    validation: Path | None = None
    test: Path | None = None
    pictures: bool = False


@dataclass(frozen=True)
class Columns:
    """What a table's columns are taken for.

    Attributes:
        text: Of the text, or two for pairs; empty where none is one.
        label: Of the label; empty where none is one.
        image: Of the path of a picture; empty where none is one.
        sure: Whether their names say so.
        labels: The labels that there are, sorted.
        names: All columns.
    """

    text: tuple[str, ...]
    label: str
    image: str
    sure: bool
    labels: tuple[str, ...]
    names: tuple[str, ...]


def data_in(folder: Path, models: Iterable[Path]) -> list[Data]:
    """Tables and pictures in a folder, its models' own folders included, splits of one name together."""
    inside = set(models)
    named: dict[tuple[Path, str], dict[str, Path]] = {}
    found = []
    for path in _paths(folder, DEEP + 1):
        if path.is_dir():
            if path not in inside and (_saved(path) or _classes(path)):
                found.append(Data(path.name, path, pictures=not _saved(path)))
        elif path.suffix.lower() in TABLES:
            name, split = _named(path.stem)
            # `sport/train.csv` is called by its folder.
            home, name = (path.parent.parent, path.parent.name) if not name else (path.parent, name)
            named.setdefault((home, name), {})[split] = path
    for (_, name), splits in named.items():
        first = splits.get("") or splits.get("train") or next(iter(splits.values()))
        whole = {"train", "validation", "test"} <= set(splits)
        found.append(Data(name, first, splits["validation"], splits["test"]) if whole else Data(name, first))
    return found


def matched(experts: Sequence[Path], found: Sequence[Data]) -> dict[Path, tuple[Data, bool]]:
    """Expert → its data, and whether their names say so: first what lies in its folder, then what is called alike."""
    pairs: dict[Path, tuple[Data, bool]] = {}
    left = list(found)

    def take(expert: Path, data: Data, sure: bool) -> None:
        pairs[expert] = (data, sure)
        left.remove(data)

    for expert in experts:
        own = [data for data in left if data.train.is_relative_to(expert)]
        if len(own) == 1:
            take(expert, own[0], True)
    while True:
        open_ = [expert for expert in experts if expert not in pairs]
        scored = [(_alike(expert.name, data.name), expert, data) for expert in open_ for data in left]
        best = max(scored, key=lambda one: one[0], default=None)
        if best is None or best[0] < _LIKE:
            break
        take(best[1], best[2], True)
    if len(open_) == len(left) == 1:
        take(open_[0], left[0], False)
    return pairs


def columns_of(path: Path) -> Columns:
    """What the columns of a table or dataset are, by their names, else by what stands in them.

    Raises:
        BadInput: If it cannot be read.
    """
    table = next(iter(tables_in(path).values()))
    rows = table.rows
    known = {str(name).lower(): str(name) for name in rows[0]}
    image = next((known[name] for name in _IMAGE if name in known and _is_picture(rows, known[name])), "")
    text: tuple[str, ...] = ()
    if not image:
        text = next((tuple(known[name] for name in pair) for pair in _PAIRS if set(pair) <= set(known)), ())
        text = text or tuple(known[name] for name in _TEXT if name in known)[:1]
    label = next((known[name] for name in _LABEL if name in known and known[name] not in text), "")
    sure = bool(text or image) and bool(label)
    if not text and not image:
        text = tuple(_longest(rows))
    if not label:
        label = _fewest(rows, {*text, image})
    values = {str(row.get(label)).strip() for row in rows} if label else set()
    labels = tuple(table.names.get(label) or (sorted(values) if len(values) <= _MOST else ()))
    return Columns(text, label, image, sure, labels, tuple(map(str, rows[0])))


def _paths(folder: Path, depth: int) -> Iterator[Path]:
    for path in sorted(one for one in folder.iterdir() if not one.name.startswith(".")):
        yield path
        if path.is_dir() and depth > 1 and not (_saved(path) or _classes(path)):
            yield from _paths(path, depth - 1)


def _saved(folder: Path) -> bool:
    """Whether it is what Hugging Face's `datasets` saved."""
    return any((folder / mark).is_file() for mark in ("dataset_dict.json", "state.json"))


def _classes(folder: Path) -> bool:
    """Whether a folder has pictures in a folder for each of two classes or more."""
    inner = [path for path in folder.iterdir() if path.is_dir()]
    return sum(any(file.suffix.lower() in _PICTURES for file in path.iterdir()) for path in inner) >= 2


def _named(stem: str) -> tuple[str, str]:
    """`sport-train` → `sport` and `train`; `train` → nothing and `train`."""
    last = re.split(r"[-_. ]", stem)[-1]
    split = _SPLITS.get(last.lower(), "")
    return (re.sub(r"[-_. ]$", "", stem[: len(stem) - len(last)]), split) if split else (stem, "")


def _alike(expert: str, data: str) -> float:
    """1 where all words of the one are among the other's, else how alike they are written."""
    one, other = (set(re.findall(r"[a-z]+|\d+", name.lower())) for name in (expert, data))
    if one and other and (one <= other or other <= one):
        return 1.0 + SequenceMatcher(None, expert.lower(), data.lower()).ratio() / 10
    return SequenceMatcher(None, expert.lower(), data.lower()).ratio()


def _is_picture(rows: Sequence[Row], column: str) -> bool:
    return Path(str(rows[0].get(column))).suffix.lower() in _PICTURES


def _longest(rows: Sequence[Row]) -> list[str]:
    """The column with the longest texts."""
    lengths = {name: _mean(len(v) for row in rows if isinstance(v := row.get(name), str)) for name in rows[0]}
    best = max(lengths, key=lambda name: lengths[name], default="")
    return [str(best)] if best and lengths[best] > 0 else []


def _fewest(rows: Sequence[Mapping[str, Any]], taken: set[str]) -> str:
    """The column with the fewest values, of those that repeat theirs."""
    counts = {str(name): len({str(row.get(name)) for row in rows}) for name in rows[0] if name not in taken}
    usable = {name: count for name, count in counts.items() if 2 <= count <= min(_MOST, len(rows) // 2)}
    return min(usable, key=lambda name: usable[name], default="")


def _mean(values: Iterable[int]) -> float:
    held = list(values)
    return sum(held) / len(held) if held else 0.0
