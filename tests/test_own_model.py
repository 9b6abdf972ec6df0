"""docs/own-model.md, followed word for word: from three folders and tables to a verdict, without Python."""

from __future__ import annotations

import json
import re
import shlex
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tests.scenarios import own_models

pytestmark = pytest.mark.slow
PAGE = "docs/own-model.md"


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return own_models.make(tmp_path_factory.mktemp("own"))


@pytest.fixture(autouse=True)
def _here(place: Path, tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("REDTEAM_CACHE", str(tmp_path_factory.getbasetemp() / "cache"))
    monkeypatch.chdir(place)


def toml(page: Any, first: str) -> str:
    return next(block for block in page.fenced("toml") if block.startswith(first))


def verdicts(folder: Path) -> dict[str, Any]:
    return {v["defense"]: v for v in json.loads((folder / "results.json").read_text())["verdicts"]}


def test_the_page_leads_to_a_verdict(page: Callable[[str], Any], shell: Callable[..., Any], place: Path) -> None:
    shown = page(PAGE)
    lines = [line for block in shown.fenced("sh") for line in block.splitlines()]
    assert [line.split()[1] for line in lines] == ["new", "check", "run"]
    new, check, run = (shlex.split(line)[1:] for line in lines)
    told = shell(*new)
    assert told.code == 0, told.out + told.err
    written = (place / "mine.toml").read_text(encoding="utf-8")
    bare = [re.sub(r"\s*#.*", "", line) for line in written.splitlines()]
    wanted = [line for line in toml(shown, "# mine.toml").splitlines()[1:] if line]
    assert [line for line in bare if line and not line.startswith(("text", "label", "kind"))] == wanted
    assert len(wanted) <= 11
    told = shell(*check)
    assert told.code == 0, told.out + told.err
    told = shell(*run)
    assert told.code == 0, told.out + told.err
    assert "does not protect" in told.out
    found = verdicts(place / "runs" / "quick")
    assert found["mergelock"]["verdict"] == "BROKEN"
    assert "ONE-SEED" in found["mergelock"]["flags"]
    assert "mergelock" in (place / "verdict.html").read_text(encoding="utf-8")


def test_what_is_missing_is_trained(page: Callable[[str], Any], shell: Callable[..., Any], place: Path) -> None:
    whole = toml(page(PAGE), "# mine.toml")
    trained = toml(page(PAGE), "[tasks.weather]").replace("5e-5", "5e-4")  # the models of this test are tiny
    text = re.sub(r"\[tasks\.weather\]\n.*?(?=\n\n|\Z)", trained.rstrip(), whole, flags=re.DOTALL)
    (place / "trained.toml").write_text(text, encoding="utf-8")
    told = shell(
        "run", "--scenario", "trained.toml", "--defense", "mergelock", "--attack", "gauge-fit", "--out", "trained"
    )
    assert told.code == 0, told.out + told.err
    assert verdicts(place / "trained")["mergelock"]["theft"] is not None
