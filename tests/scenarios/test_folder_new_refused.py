"""`redteam new scenario FOLDER` where nothing useful is found, or nothing may be written: one sentence, and no file."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from redteam.checkpoint import Checkpoint
from tests.scenarios.test_folder_new import LLAMA, Invoke, models, redteam, tables  # noqa: F401


def spoiled(folder: Path) -> None:
    models(folder)
    tables(folder)


BAD: dict[str, tuple[Callable[[Path], object], tuple[str, ...], str]] = {
    "no such folder": (lambda p: None, ("./nowhere",), "There is no folder nowhere; name one with models"),
    "nothing in it": (lambda p: None, (".",), ". holds no models; expected folders with a config.json"),
    "one model": (
        lambda p: Checkpoint.of({}, LLAMA).fresh(0).save(p / "only"),
        (".",),
        "holds one model, only, and nothing that was made from it; add the fine-tunes",
    ),
    "no data": (models, (".",), "labelled data called none; a scenario takes two tasks, so put data for each"),
    "a pickle": (
        lambda p: (
            (p / "old").mkdir(),
            (p / "old/config.json").write_text("{}"),
            (p / "old/model.bin").write_bytes(b""),
        ),
        (".",),
        "model.bin is a pickle, which is never loaded",
    ),
    "a file that is there": (
        lambda p: (spoiled(p), (p / "mine.toml").write_text("")),
        (".",),
        "mine.toml exists already; move it away, or name another file (--out)",
    ),
    "no TOML": (spoiled, (".", "--out", "mine.txt"), "mine.txt is no name for a scenario's file"),
    "no such victim": (
        spoiled,
        (".", "--victim", "bert-sprot"),
        "There is no expert with data called 'bert-sprot'; did you mean 'bert-sport'",
    ),
    "a victim of no folder": (lambda p: None, ("my-own", "--victim", "x"), "--victim is for a folder of models"),
}


@pytest.mark.parametrize("what", BAD)
def test_bad_input_gets_one_sentence_and_writes_nothing(redteam: Invoke, tmp_path: Path, what: str) -> None:  # noqa: F811
    spoil, words, sentence = BAD[what]
    spoil(tmp_path)
    before = set(tmp_path.rglob("*.toml"))
    code, out, err = redteam("new", "scenario", *words)
    assert (code, out) == (2, "")
    told = err.splitlines()[-1]
    assert told.startswith("Error: ")
    assert sentence in told
    assert set(tmp_path.rglob("*.toml")) == before
