"""`redteam cache`: what it lists, and that it removes what was named and nothing else."""

from __future__ import annotations

import json
import os
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from redteam_scenarios.caching import whole

from redteam.caching import Entry, entries, remove, this_engine
from redteam.errors import UnwritableOutput

Shell = Callable[..., Any]
OLD, NEW, OTHER = "seed3-" + "a" * 16, "seed0-" + "b" * 24, "expert-" + "c" * 32


def put(folder: Path, *, size: int = 1000, days: float = 0.0) -> Path:
    """A folder with one file that was last used so long ago."""
    folder.mkdir(parents=True)
    (folder / "weights").write_bytes(bytes(size))
    then = time.time() - days * 24 * 3600
    os.utime(folder / "weights", (then, then))
    return folder


@pytest.fixture
def root(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A cache with an old entry, two new ones, and things that are no entries."""
    root = tmp_path / "cache"
    monkeypatch.setenv("REDTEAM_CACHE", str(root))
    put(root / "digits" / OLD, days=40, size=2_000_000)
    with whole(root / "digits" / NEW) as work:
        (work / "weights").write_bytes(bytes(3_000_000))
    put(root / "folder" / OTHER)
    put(root / "Documents" / OLD, days=99)
    put(root / "digits" / "notes", days=99)
    put(root / "digits" / ".seed1-x.unfinished")
    put(tmp_path / "elsewhere" / OLD, days=99)
    (root / "digits" / ("seed9-" + "d" * 16)).symlink_to(tmp_path / "elsewhere" / OLD)
    (root / "glue").symlink_to(tmp_path / "elsewhere")
    return root


def test_entries_are_listed_with_what_is_known_of_them(shell: Shell, root: Path) -> None:
    found = json.loads(shell("cache", "--json").out)
    assert found["root"] == str(root)
    assert found["bytes"] == 5_001_000
    rows = {Path(row["path"]).name: row for row in found["entries"]}
    assert set(rows) == {OLD, NEW, OTHER}
    assert (rows[OLD]["scenario"], rows[OLD]["seed"], rows[OLD]["engine"]) == ("digits", 3, "")
    assert (rows[NEW]["seed"], rows[NEW]["engine"]) == (0, this_engine())
    assert (rows[OTHER]["scenario"], rows[OTHER]["seed"]) == ("folder", None)
    told = shell("cache").out.splitlines()
    assert len(told) == 4
    assert told[-1] == f"3 entries, 6 MB in {root}."
    assert shell("cache", "size").out == told[-1] + "\n"


@pytest.mark.parametrize(
    ("options", "gone"),
    [
        (("--older-than", "30"), {OLD}),
        (("--older-than", "50"), set[str]()),
        (("--engine", "other"), {OLD, OTHER}),
        (("--engine", "other", "--older-than", "30"), {OLD}),
        ((), {OLD, NEW, OTHER}),
    ],
)
def test_what_is_named_goes_and_nothing_else(
    shell: Shell, root: Path, tmp_path: Path, options: tuple[str, ...], gone: set[str]
) -> None:
    before, in_cache = files(tmp_path), {one.path for one in entries()}
    dry = shell("cache", "prune", *options, "--dry-run")
    assert dry.code == 0
    assert {line.split()[-1] for line in dry.out.splitlines()[:-1]} == gone
    assert files(tmp_path) == before
    told = shell("cache", "prune", *options, "--yes")
    assert told.code == 0, told.err
    removed = before - files(tmp_path)
    notes = {path for path in removed if ".made" in path.parts}
    assert removed - notes == {one / "weights" for one in in_cache if one.name in gone}
    assert len(notes) == (NEW in gone)
    assert (root / "glue").is_symlink()
    assert {one.path.name for one in entries()} == {OLD, NEW, OTHER} - gone


def files(folder: Path) -> set[Path]:
    """All of them, links not followed."""
    return {Path(home) / name for home, _, names in os.walk(folder) for name in names}


class TestAsking:
    @pytest.fixture(autouse=True)
    def at_a_terminal(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr("redteam.cli.cache.sys.stdin.isatty", lambda: True, raising=False)

    @pytest.mark.parametrize("agreed", [True, False])
    def test_it_removes_only_what_was_agreed_to(
        self, shell: Shell, root: Path, monkeypatch: pytest.MonkeyPatch, agreed: bool
    ) -> None:
        asked: list[str] = []

        def confirm(text: str, **_: Any) -> bool:
            asked.append(text)
            return agreed

        monkeypatch.setattr("redteam.cli.cache.typer.confirm", confirm)
        told = shell("cache", "prune", "--older-than", "30")
        assert asked == ["One entry, 2 MB: remove?"]
        assert told.code == (0 if agreed else 1)
        assert (root / "digits" / OLD).exists() != agreed


def test_where_nobody_can_be_asked_nothing_is_removed(shell: Shell, root: Path) -> None:
    told = shell("cache", "prune")
    assert told.code == 2
    assert "add --yes" in told.err
    assert len(entries()) == 3


def test_options_of_prune_alone(shell: Shell, root: Path) -> None:
    assert shell("cache", "list", "--yes").code == 2


def test_what_lies_elsewhere_is_refused(root: Path, tmp_path: Path) -> None:
    outside = tmp_path / "elsewhere" / OLD
    for path in (outside, root / "digits" / "notes", root / "glue" / OLD, root / "digits" / ("seed9-" + "d" * 16)):
        with pytest.raises(UnwritableOutput, match="it was left alone"):
            remove(Entry(path, "digits", 0, 0, 0.0, ""))
    assert (outside / "weights").is_file()


def test_what_a_killed_process_left_is_an_entry_after_a_day(root: Path) -> None:
    left = root / "digits" / ".seed1-x.unfinished"
    assert left not in {one.path for one in entries()}
    then = time.time() - 2 * 24 * 3600
    os.utime(left, (then, then))
    (found,) = [one for one in entries() if one.path == left]
    remove(found)
    assert not left.exists()


def test_without_a_cache_there_is_nothing(shell: Shell, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("REDTEAM_CACHE", str(tmp_path / "none"))
    assert shell("cache").out == f"No entries in {tmp_path / 'none'}.\n"
    assert shell("cache", "prune").out == "There is nothing to remove.\n"
