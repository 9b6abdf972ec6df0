"""A write that fails, is killed or comes too late to be stopped leaves nothing half done."""

import os
import resource
import shutil
import signal
import subprocess
import sys
import textwrap
from pathlib import Path
from typing import Any

import pytest
import torch

from redteam.checkpoint import Checkpoint
from redteam.checkpoint.save import write
from redteam.errors import UnwritableOutput
from tests.sharded import CONFIG, Failing, files, sharded, tensors


@pytest.fixture
def source(tmp_path: Path) -> Path:
    return sharded(tmp_path)


@pytest.mark.parametrize("error", [OSError(28, "No space left on device"), KeyboardInterrupt(), ValueError("bug")])
def test_whatever_goes_wrong_leaves_nothing(source: Path, tmp_path: Path, error: BaseException) -> None:
    expected = UnwritableOutput if isinstance(error, OSError) else type(error)
    with pytest.raises(expected):
        write(Checkpoint(Failing(tensors(), error), CONFIG), tmp_path / "new" / "deep" / "out", like=source)
    assert [path.name for path in tmp_path.iterdir()] == ["source"]


def test_a_disk_that_takes_no_more_is_one_sentence(source: Path, tmp_path: Path) -> None:
    before, handler = resource.getrlimit(resource.RLIMIT_FSIZE), signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (3000, before[1]))
    try:
        with pytest.raises(UnwritableOutput, match="cannot be written"):
            write(Checkpoint.open(source), tmp_path / "out", like=source)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
        signal.signal(signal.SIGXFSZ, handler)
    assert [path.name for path in tmp_path.iterdir()] == ["source"]


def test_a_disk_that_is_too_small_is_told_before(source: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("shutil.disk_usage", lambda _: type("Usage", (), {"free": 100}))
    with pytest.raises(UnwritableOutput, match="needs 12288 bytes and its disk has 100 free"):
        write(Checkpoint.open(source), tmp_path / "out", like=source)


KILLED = """
    import os, sys, torch
    from redteam.checkpoint import Checkpoint
    from redteam.checkpoint.save import write
    def stop(done, total, name):
        if done == 2:
            print("halfway", flush=True)
            sys.stdin.read()
    write(Checkpoint.open(sys.argv[1]), sys.argv[2], like=sys.argv[1], progress=stop)
"""


def test_a_killed_writer_is_tidied_by_the_next_and_a_living_one_is_not(source: Path, tmp_path: Path) -> None:
    command = [sys.executable, "-c", textwrap.dedent(KILLED), str(source), str(tmp_path / "out")]
    strangers = [tmp_path / ".out.redteam-strange", tmp_path / ".out.redteam-marked"]
    for stranger in strangers:
        stranger.mkdir()
        (stranger / "file").write_text("x")
    (strangers[1] / "writing").write_text("something else")
    (tmp_path / ".out.redteam-link").symlink_to(source)
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout.readline() == "halfway\n"
        (left,) = (p for p in tmp_path.glob(".out.redteam-*") if (p / "new").exists())
        assert not (tmp_path / "out").exists()
        write(Checkpoint.open(source), tmp_path / "out", like=source)
        assert left.exists(), "its writer is alive"
        process.kill()
    write(Checkpoint.open(source), tmp_path / "out", like=source, force=True)
    assert not left.exists()
    assert all((stranger / "file").exists() for stranger in strangers)
    assert files(tmp_path / "out") == files(source)


def test_a_kill_between_the_two_renames_loses_nothing(source: Path, tmp_path: Path) -> None:
    from redteam.files import _hold

    write(Checkpoint.open(source), tmp_path / "out", like=source)
    work = tmp_path / ".out.redteam-killed"
    work.mkdir()
    os.close(_hold(work / "writing"))
    (tmp_path / "out").rename(work / "old")
    with pytest.raises(UnwritableOutput, match="exists already"):
        write(Checkpoint.open(source), tmp_path / "out", like=source)
    assert files(tmp_path / "out") == files(source)
    assert not work.exists()


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_a_stop_after_the_folder_has_its_name_is_too_late(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, number: signal.Signals
) -> None:
    """While the one that it replaces is removed: the new one is there, and nobody hears that it is not."""
    import redteam.files as home

    out = tmp_path / "out"
    Checkpoint.of({"a": torch.zeros(3)}, {}).save(out)
    remove = shutil.rmtree

    def stopped(path: Path, **options: Any) -> None:
        os.kill(os.getpid(), number)
        remove(path, **options)

    before = signal.getsignal(number)
    monkeypatch.setattr(home.shutil, "rmtree", stopped)
    write(Checkpoint.of({"a": torch.ones(3)}, {}), out, force=True)
    monkeypatch.undo()
    assert torch.equal(Checkpoint.open(out)["a"], torch.ones(3))
    assert [path.name for path in tmp_path.iterdir()] == ["out"]
    assert signal.getsignal(number) is before
