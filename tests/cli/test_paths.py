"""What commands say of folders that cannot be read, and on how many threads they run."""

from pathlib import Path
from typing import Any

import pytest
import torch

from tests.zoo import network

COMMANDS = {
    "audit": ("MODEL", "--base", "BASE"),
    "attack": ("gauge-fit", "MODEL", "--base", "BASE", "--out", "OUT"),
    "protect": ("permutation", "MODEL", "--base", "BASE", "--out", "OUT", "--key", "KEY"),
    "merge": ("task-arithmetic", "--base", "BASE", "--expert", "MODEL", "--out", "OUT"),
}


def words(command: str, folder: Path, **places: Path) -> list[str]:
    there = {"MODEL": folder / "model", "BASE": folder / "base", "OUT": folder / "out", "KEY": folder / "key"} | places
    return [str(there.get(word, word)) for word in (command, *COMMANDS[command])]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    bert = network("bert").checkpoint
    bert.save(tmp_path / "base")
    bert.replace({n: t + 0.01 for n, t in bert.items() if t.ndim > 1}).save(tmp_path / "model")
    (tmp_path / "loop").symlink_to(tmp_path / "loop")
    return tmp_path


@pytest.mark.parametrize(
    ("command", "place"), [(c, p) for c in COMMANDS for p in ("MODEL", "BASE", "OUT", "KEY") if p in COMMANDS[c]]
)
def test_links_that_lead_in_a_circle_are_one_sentence(command: str, place: str, folder: Path, shell: Any) -> None:
    told = shell(*words(command, folder, **{place: folder / "loop"}))
    assert told.code == 2
    assert "Internal error" not in told.err
    assert "loop" in told.err
    assert not (folder / "out").exists()


@pytest.mark.parametrize("command", COMMANDS)
@pytest.mark.parametrize("asked", [None, "2"])
def test_one_thread_unless_the_environment_asks_for_more(
    command: str, asked: str | None, folder: Path, shell: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[int] = []
    count, before = torch.set_num_threads, torch.get_num_threads()
    count(2)

    def noted(threads: int) -> None:
        seen.append(threads)
        count(threads)

    monkeypatch.setattr(torch, "set_num_threads", noted)
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    if asked:
        monkeypatch.setenv("OMP_NUM_THREADS", asked)
    try:
        assert shell(*words(command, folder)).code == 0
        assert seen[0] == (2 if asked else 1)
        assert torch.get_num_threads() == 2
    finally:
        count(before)
