"""What is finished stays finished; what is half-written never counts."""

import os
from pathlib import Path

import pytest
import torch

from redteam.checkpoint import Checkpoint
from redteam.errors import UnwritableOutput
from redteam.evaluation.store import Store, write_atomically


def test_the_first_writer_wins(tmp_path: Path) -> None:
    store = Store(tmp_path)
    store.put("a", {"value": 1})
    store.put("a", {"value": 2})
    assert store.get("a") == {"value": 1}


def test_a_record_cut_off_counts_as_none(tmp_path: Path) -> None:
    store = Store(tmp_path)
    store.put("a", {"value": 1})
    (tmp_path / "cells" / "a.json").write_text('{"val')
    assert store.get("a") is None
    store.put("a", {"value": 3})
    assert store.get("a") == {"value": 3}


def test_checkpoints_are_dropped_and_leftovers_cleared(tmp_path: Path) -> None:
    store = Store(tmp_path)
    for name in ("a", "b"):
        store.put_artefact(name, Checkpoint.of({"w": torch.ones(2)}, {}))
    (tmp_path / "work" / ".c.half").mkdir()
    (tmp_path / "cells" / ".d.json.half").write_text("{")
    store.clear_work(keep=frozenset({"a"}))
    assert store.has_artefact("a")
    assert not store.has_artefact("b")
    assert [path.name for path in (tmp_path / "work").iterdir()] == ["a"]
    assert not list((tmp_path / "cells").iterdir())


def test_not_a_number_is_never_stored(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="JSON"):
        Store(tmp_path).put("a", {"value": float("nan")})


def test_a_place_that_cannot_be_written_is_one_sentence(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(UnwritableOutput, match="cannot be written"):
        Store(tmp_path / "file")
    with pytest.raises(UnwritableOutput, match="cannot be written"):
        write_atomically(tmp_path / "file" / "report.md", "text")


def test_a_failed_write_leaves_nothing_behind(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "replace", full)
    with pytest.raises(UnwritableOutput, match="No space left"):
        write_atomically(tmp_path / "report.md", "text")
    assert not list(tmp_path.iterdir())
