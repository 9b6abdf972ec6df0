"""Tables wherever they lie: files, folders that Hugging Face's `datasets` saved, and folders of Parquet as on the hub.

Read with pyarrow alone; a script that came along is never run.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from redteam.errors import BadInput
from redteam.tasks import Split
from redteam_scenarios.folder.tables import Row, read_table

_SPLIT = re.compile(r"(?:^|[/._-])(train|training|validation|valid|val|dev|test|testing|eval)(?=[/._-]|$)")
_CALLED: dict[str, Split] = {
    "train": "train", "training": "train", "validation": "validation", "valid": "validation", "val": "validation",
    "dev": "validation", "eval": "validation", "test": "test", "testing": "test",
}  # fmt: skip
_DICT, _STATE, _INFO = "dataset_dict.json", "state.json", "dataset_info.json"
_KEY = b"huggingface"


@dataclass(frozen=True)
class Table:
    """Rows of one split, or of all.

    Attributes:
        path: Where they were read.
        rows: The rows.
        names: Column → the names of the classes whose numbers stand in it, in their order, where the data say so.
    """

    path: Path
    rows: list[Row]
    names: Mapping[str, Sequence[str]] = field(default_factory=dict)


def is_dataset(path: Path) -> bool:
    """Whether a folder holds a dataset rather than pictures in folders."""
    if not path.is_dir():
        return False
    marks = any((path / name).is_file() for name in (_DICT, _STATE)) or any(path.rglob("*.parquet"))
    return marks or (_script(path) != "" and not any(each.is_dir() for each in path.iterdir()))


def tables_in(path: Path) -> dict[Split, Table]:
    """Split → its table; what has no splits counts as training data, and other splits are left out.

    Args:
        path: A file that `read_table` knows, or a folder.

    Raises:
        BadInput: If it cannot be read, or holds no data.
    """
    if not path.is_dir():
        return {"train": Table(path, read_table(path))}
    if (path / _DICT).is_file():
        return _saved_splits(path)
    if (path / _STATE).is_file():
        return {"train": _saved(path)}
    files = sorted(path.rglob("*.parquet"))
    if not files:
        script = _script(path)
        raise BadInput(
            f"{path} has a loading script ({script}), which is never run; save the dataset once (dataset.save_to_disk) "
            "or as Parquet, and name that folder."
            if script
            else f"{path} holds no dataset; expected what save_to_disk writes, or Parquet files."
        )
    parts: dict[Split, list[Path]] = {}
    unnamed: list[Path] = []
    for file in files:
        found = _SPLIT.findall(file.relative_to(path).as_posix())
        (parts.setdefault(_CALLED[found[-1]], []) if found else unnamed).append(file)
    # Beside training data, what is called otherwise is none: test pictures under noise, for example.
    parts.setdefault("train", unnamed)
    return {split: _parquet(path, held) for split, held in parts.items() if held}


def _saved_splits(path: Path) -> dict[Split, Table]:
    named = _json(path / _DICT).get("splits")
    found: dict[Split, Table] = {}
    for name in named if isinstance(named, list) else ():
        match = _SPLIT.search(str(name))
        if match and _CALLED[match[1]] not in found and Path(str(name)).name == name:
            found[_CALLED[match[1]]] = _saved(path / str(name))
    if not found:
        raise BadInput(f"{path} has the splits {named}, none of them train, validation or test; name one's folder.")
    return found


def _saved(path: Path) -> Table:
    """One split, as `save_to_disk` writes it: streams of Arrow."""
    state = _json(path / _STATE)
    listed = state.get("_data_files")
    if state.get("_indices_data_files") or state.get("_indices_files"):
        raise BadInput(f"{path} holds rows and an order of them apart; save it again with a newer release of datasets.")
    names = [str(entry.get("filename")) for entry in listed or () if isinstance(entry, dict)]
    if not names or not all(Path(name).name == name for name in names):
        raise BadInput(f"{path / _STATE} names no data files of its folder; save the dataset again.")
    rows: list[Row] = []
    for name in names:
        rows += read_table(path / name)
    info = _json(path / _INFO) if (path / _INFO).is_file() else {}
    return Table(path, rows, _class_names(info.get("features")))


def _parquet(path: Path, files: Iterable[Path]) -> Table:
    from pyarrow import ArrowInvalid, parquet

    rows: list[Row] = []
    names: dict[str, list[str]] = {}
    for file in files:
        rows += read_table(file)
        try:
            said = json.loads((parquet.read_schema(file).metadata or {}).get(_KEY, b"{}"))
        except (ArrowInvalid, ValueError):
            continue
        names |= _class_names((said.get("info") or {}).get("features") if isinstance(said, dict) else None)
    return Table(path, rows, names)


def _class_names(features: Any) -> dict[str, list[str]]:
    """Column → names of classes, of what `datasets` says of the columns."""
    told = features.items() if isinstance(features, dict) else ()
    return {
        column: [str(name) for name in about["names"]]
        for column, about in told
        if isinstance(about, dict) and about.get("_type") == "ClassLabel" and isinstance(about.get("names"), list)
    }


def _script(path: Path) -> str:
    """The name of a script beside the data, which `datasets` used to run; empty if there is none."""
    return next((file.name for file in sorted(path.glob("*.py"))), "")


def _json(path: Path) -> dict[str, Any]:
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise BadInput(f"{path} cannot be read ({' '.join(str(error).split())}); save the dataset again.") from None
    return found if isinstance(found, dict) else {}
