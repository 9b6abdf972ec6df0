"""`redteam doctor` without models: what is installed, and what of it would make runs fail."""

from __future__ import annotations

import importlib.metadata
import json
import shutil
import sys
from collections import namedtuple
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from redteam import installation

Shell = Callable[..., Any]


@pytest.fixture(autouse=True)
def sound(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """A machine on which nothing is wrong, whatever that of the test is like."""
    monkeypatch.setenv("REDTEAM_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "hub"))
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    usage = namedtuple("usage", "total used free")
    monkeypatch.setattr(shutil, "disk_usage", lambda _: usage(10**12, 0, 10**11))


def test_it_names_what_there_is(shell: Shell, tmp_path: Path) -> None:
    (tmp_path / "cache" / "some").mkdir(parents=True)
    (tmp_path / "cache" / "some" / "weights").write_bytes(bytes(3_000_000))
    told = shell("doctor")
    assert (told.code, told.err) == (0, "")
    assert told.out.splitlines()[-1] == "Nothing here would make a run fail."
    assert f"torch {importlib.metadata.version('torch')}" in told.out
    assert f"3 MB in {tmp_path / 'cache'}" in told.out
    assert f"{len(installation.REGISTRIES['attack'].names)} attacks" in told.out


def test_as_json_it_has_the_versions_beside_the_lines(shell: Shell) -> None:
    found = json.loads(shell("doctor", "--json").out)
    assert found["packages"]["numpy"] == importlib.metadata.version("numpy")
    abouts = {remark["about"] for remark in found["remarks"]}
    assert {"python", "packages", "threads", "device", "cache", "hub", "disk", "plugins", "extra"} <= abouts


def test_every_extra_says_what_it_gives() -> None:
    extras = importlib.metadata.metadata(installation.PACKAGE).get_all("Provides-Extra") or []
    brought = {one.name for extra in extras for one in installation._required(extra)}
    assert brought == set(installation.GIVEN_BY)


def test_an_extra_of_another_version_is_told(shell: Shell, monkeypatch: pytest.MonkeyPatch) -> None:
    version = importlib.metadata.version
    monkeypatch.setattr(importlib.metadata, "version", lambda name: "0.1" if name == "optuna" else version(name))
    told = shell("doctor")
    assert told.code == 0
    line = next(line for line in told.out.splitlines() if line.startswith("note") and "0.1" in line)
    assert "optuna needs optuna>=5.0, and 0.1 is installed: redteam search; pip install 'merge-redteam[optuna]'" in line


def _missing(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    version = importlib.metadata.version

    def without(name: str) -> str:
        if name == "scipy":
            raise importlib.metadata.PackageNotFoundError(name)
        return "0.1" if name == "pandas" else version(name)

    monkeypatch.setattr(importlib.metadata, "version", without)


def _full(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    usage = namedtuple("usage", "total used free")
    monkeypatch.setattr(shutil, "disk_usage", lambda _: usage(10**12, 10**12, 10**6))


def _in_a_file(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("no folder")
    monkeypatch.setenv("REDTEAM_CACHE", str(tmp_path / "file" / "cache"))


WRONG: dict[str, tuple[Callable[[pytest.MonkeyPatch, Path], object], tuple[str, ...]]] = {
    "packages": (
        _missing,
        ("scipy is missing; pip install 'scipy>=", "pandas 0.1 is installed, and >=", "2 things would make runs fail"),
    ),
    "disk": (_full, ("1 MB free for here", "free some, or name another place")),
    "cache": (_in_a_file, ("cannot be written; set REDTEAM_CACHE to a folder that can", "One thing would make runs")),
    "threads": (lambda patch, _: patch.setenv("OMP_NUM_THREADS", "all"), ("set it to 1, or unset it",)),
    "torch": (lambda patch, _: patch.setitem(sys.modules, "torch", None), ("torch cannot be imported",)),
}


@pytest.mark.parametrize("what", WRONG)
def test_what_would_fail_is_said_with_what_to_do(
    shell: Shell, what: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    break_it, sentences = WRONG[what]
    break_it(monkeypatch, tmp_path)
    told = shell("doctor")
    assert told.code == 1
    assert all(sentence in told.out for sentence in sentences), told.out


def test_a_base_alone_is_not_enough(shell: Shell, tmp_path: Path) -> None:
    told = shell("doctor", str(tmp_path))
    assert told.code == 2
    assert "name what is to be merged over this base" in told.err
