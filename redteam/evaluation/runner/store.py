"""The store of a run: one file per finished step, written atomically, first writer wins.

`cells/HASH.json` are records, kept, and `shared/HASH.json` what several of them have in common; `work/HASH/` are
checkpoints that other steps read.
"""

from __future__ import annotations

import json
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from redteam.errors import UnwritableOutput
from redteam.evaluation.steps import Kind, Outcome, Record, Step, parsed, plain
from redteam.files import write_atomically

if TYPE_CHECKING:
    from redteam.checkpoint import Checkpoint


class Store:
    """Records and artefacts under one folder.

    Args:
        root: The folder.
        write: Whether anything is going to be written.

    Raises:
        UnwritableOutput: If nothing can be written there.
    """

    def __init__(self, root: Path, *, write: bool = True) -> None:
        self.root = root
        self._cells, self._work, self._shared = root / "cells", root / "work", root / "shared"
        if not write:
            return
        try:
            self._cells.mkdir(parents=True, exist_ok=True)
            self._work.mkdir(exist_ok=True)
            self._shared.mkdir(exist_ok=True)
            with tempfile.TemporaryFile(dir=self._cells):
                pass
        except OSError as error:
            raise UnwritableOutput(
                f"{root} cannot be written ({error.strerror}); name another folder with --out."
            ) from None

    def get(self, name: str) -> Outcome | None:
        """A finished step's outcome, `None` if there is none. A damaged record counts as none and is removed."""
        path = self._cells / f"{name}.json"
        held = _read(path)
        if held is None:
            return None
        record = _parsed(path, held.get("kind"), held.get("result"))
        return None if record is None else Outcome("ok", record, gpu=str(held.get("gpu", "")))

    def put(self, step: Step, record: Record, gpu: str = "") -> None:
        """Writes a record whole, unless there is one already, with the model of the GPU that it was computed on."""
        values = {"kind": step.kind, "label": step.label, "result": plain(step.kind, record)}
        values |= {"gpu": gpu} if gpu else {}
        _write_first(self._cells / f"{step.name}.json", values)

    def shared(self, kind: Kind, name: str) -> Any:
        """What several steps have in common, under a name of its own; `None` if it is not there."""
        path = self._shared / f"{name}.json"
        held = _read(path)
        return None if held is None else _parsed(path, kind, held)

    def put_shared(self, kind: Kind, name: str, record: Record) -> None:
        """Writes that whole, unless it is there already."""
        _write_first(self._shared / f"{name}.json", plain(kind, record))

    def text(self, name: str) -> str | None:
        """A line of text that was put under a name."""
        held = _read(self._shared / f"{name}.json")
        return None if held is None else held.get("text")

    def put_text(self, name: str, text: str) -> None:
        """Writes a line of text, unless there is one already."""
        _write_first(self._shared / f"{name}.json", {"text": text})

    def has_artefact(self, name: str) -> bool:
        """Whether a step's checkpoint is there."""
        return (self._work / name).is_dir()

    def artefact(self, name: str) -> Checkpoint:
        """A step's checkpoint."""
        from redteam.checkpoint import Checkpoint

        return Checkpoint.open(self._work / name)

    def put_artefact(self, name: str, checkpoint: Checkpoint) -> None:
        """Writes a checkpoint whole, unless there is one already."""
        if self.has_artefact(name):
            return
        try:
            checkpoint.save(self._work / name)
        except UnwritableOutput:
            if not self.has_artefact(name):  # otherwise another worker was first
                raise

    def drop_artefact(self, name: str) -> None:
        """Removes a step's checkpoint, if it is there."""
        shutil.rmtree(self._work / name, ignore_errors=True)

    @contextmanager
    def scratch(self) -> Iterator[Path]:
        """A folder beside the checkpoints, for the time of a block; of a killed process `clear_work` removes it."""
        with tempfile.TemporaryDirectory(prefix=".", dir=self._work, ignore_cleanup_errors=True) as folder:
            yield Path(folder)

    def clear_work(self, *, keep: frozenset[str] = frozenset()) -> None:
        """Removes the checkpoints that nothing waits for, and what killed writers left behind."""
        for path in self._work.iterdir():
            if path.name not in keep:
                shutil.rmtree(path, ignore_errors=True)
        for folder in (self._cells, self._shared):
            for path in folder.glob(".*"):
                path.unlink(missing_ok=True)


def _parsed(path: Path, kind: Any, values: Any) -> Any:
    try:
        return parsed(kind, values)
    except (ValueError, KeyError, TypeError):
        path.unlink(missing_ok=True)
        return None


def _read(path: Path) -> dict[str, Any] | None:
    try:
        record = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        return None
    except ValueError:
        record = None
    if not isinstance(record, dict):
        path.unlink(missing_ok=True)
        return None
    return record


def _write_first(path: Path, record: dict[str, Any]) -> None:
    if not path.is_file():
        write_atomically(path, json.dumps(record, sort_keys=True, allow_nan=False))
