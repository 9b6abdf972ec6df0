"""What is finished stays finished; what is half-written never counts."""

import os
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from redteam.checkpoint import Checkpoint
from redteam.errors import UnwritableOutput
from redteam.evaluation.runner.store import Store
from redteam.evaluation.steps import Cost, Merged, Outcome, Step, Tuned
from redteam.files import write_atomically
from tests.evaluation.merges import alone, merge

STEP = Step.of("tune", "coefficient", settings={"seed": 0})
ONE, TWO = (Tuned({"scaling": value}, [({"scaling": value}, 1.0)]) for value in (1.0, 2.0))


def test_the_first_writer_wins(tmp_path: Path) -> None:
    store = Store(tmp_path)
    store.put(STEP, ONE)
    store.put(STEP, TWO)
    assert store.get(STEP.name) == Outcome("ok", ONE)


@pytest.mark.parametrize(
    "text", ['{"kin', '{"kind": "tune", "result": {"settings": 3}}', '{"kind": "merge", "result": {}}', "{}", "[]"]
)
def test_a_record_that_is_cut_off_or_another_ones_counts_as_none(tmp_path: Path, text: str) -> None:
    store = Store(tmp_path)
    store.put(STEP, ONE)
    (tmp_path / "cells" / f"{STEP.name}.json").write_text(text)
    assert store.get(STEP.name) is None
    store.put(STEP, TWO)
    assert store.get(STEP.name) == Outcome("ok", TWO)


@pytest.mark.parametrize(("kind", "record"), [("alone", alone()), ("merge", merge(0.3)), ("tune", ONE)])
def test_records_are_read_back_as_they_were(tmp_path: Path, kind: str, record: object) -> None:
    store, step = Store(tmp_path), Step.of(kind, "x", settings={"seed": 0})
    store.put(step, record)
    assert Store(tmp_path).get(step.name) == Outcome("ok", record)


def test_what_several_steps_share_is_kept_under_its_own_name(tmp_path: Path) -> None:
    store = Store(tmp_path)
    assert store.shared("merge", "a") is None
    store.put_shared("merge", "a", merge(0.3))
    assert store.shared("merge", "a") == merge(0.3)


def test_checkpoints_are_dropped_and_leftovers_cleared(tmp_path: Path) -> None:
    store = Store(tmp_path)
    for name in ("a", "b"):
        store.put_artefact(name, Checkpoint.of({"w": torch.ones(2)}, {}))
    (tmp_path / "work" / ".c.half").mkdir()
    (tmp_path / "cells" / ".d.json.half").write_text("{")
    (tmp_path / "shared" / ".d.json.half").write_text("{")
    store.clear_work(keep=frozenset({"a"}))
    assert store.has_artefact("a")
    assert not store.has_artefact("b")
    assert [path.name for path in (tmp_path / "work").iterdir()] == ["a"]
    assert not list((tmp_path / "cells").iterdir())
    assert not list((tmp_path / "shared").iterdir())


def test_not_a_number_is_never_stored(tmp_path: Path) -> None:
    store, step = Store(tmp_path), Step.of("merge", "x", settings={"seed": 0})
    record: Merged = replace(merge(0.3), cost=Cost(float("nan")))
    with pytest.raises(ValueError, match="JSON"):
        store.put(step, record)
    assert store.get(step.name) is None


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
