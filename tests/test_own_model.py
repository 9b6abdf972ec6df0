"""The pages on your own model, followed word for word: from folders and data to a verdict, without Python."""

from __future__ import annotations

import json
import re
import shlex
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tests.scenarios import own_adapters, own_models, own_pictures

pytestmark = [pytest.mark.slow, pytest.mark.filterwarnings("ignore")]  # PEFT warns of much
PAGE = "docs/own-model.md"
WALKS: dict[str, Callable[[Path], Path]] = {
    PAGE: own_models.make,
    "docs/own-open-clip.md": own_pictures.make,
    "docs/own-adapters.md": own_adapters.make,
}
"""Page → what makes the folder that its reader stands in."""
VERDICT = r"^    (BROKEN|INEFFECTIVE|HOLDS-SO-FAR|INCONCLUSIVE) +(\w+) +([\d.]+) +([\d.]+) \["
"""A line of the table that a run ends in: the verdict, the defense, theft by a plain merge and in the worst case."""
NEAR = 0.05  # other processors round otherwise


@pytest.fixture(scope="module")
def places(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    return {page: tmp_path_factory.mktemp("own") for page in WALKS}


@pytest.fixture(autouse=True)
def _cache(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("REDTEAM_CACHE", str(tmp_path_factory.getbasetemp() / "cache"))


def stand(places: dict[str, Path], page: str, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Where the reader of a page stands, made by whoever comes first."""
    place = places[page]
    if not any(place.iterdir()):
        WALKS[page](place)
    monkeypatch.chdir(place)
    return place


def toml(page: Any, first: str) -> str:
    return next(block for block in page.fenced("toml") if block.startswith(first))


def verdicts(folder: Path) -> dict[str, Any]:
    return {v["defense"]: v for v in json.loads((folder / "results.json").read_text())["verdicts"]}


@pytest.mark.parametrize("name", WALKS)
def test_the_page_leads_to_a_verdict(
    name: str,
    page: Callable[[str], Any],
    shell: Callable[..., Any],
    places: dict[str, Path],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    place = stand(places, name, monkeypatch)
    shown = page(name)
    listing = re.search(r"(^    .*\S.*\n)+", shown.text, re.MULTILINE)
    assert listing is not None
    columns = 4 if name == PAGE else 1  # the others say behind each folder what is in it
    entries = [word for line in listing[0].splitlines() for word in line.split()[:columns]]
    listed = [entry.rstrip("/") for entry in entries]
    assert len(listed) >= 5
    assert all((place / entry).exists() for entry in listed), listed
    lines = [line for block in shown.fenced("sh") for line in block.splitlines()]
    assert [line.split()[1] for line in lines] == ["new", "check", "run"]
    new, check, run = (shlex.split(line)[1:] for line in lines)
    told = shell(*new)
    assert told.code == 0, told.out + told.err
    written = (place / "mine.toml").read_text(encoding="utf-8")
    bare = [re.sub(r"\s*#.*", "", line) for line in written.splitlines()]
    wanted = [line for line in toml(shown, "# mine.toml").splitlines()[1:] if line]
    assert [line for line in bare if line and not line.startswith(("text", "label", "kind"))] == wanted
    assert len([line for line in wanted if not line.startswith("[")]) <= 10
    told = shell(*check)
    assert told.code == 0, told.out + told.err
    told = shell(*run)
    assert told.code == 0, told.out + told.err
    found = verdicts(place / "runs" / "quick")["mergelock"]
    word, defense, plain, worst = re.search(VERDICT, shown.text, re.MULTILINE).groups()  # type: ignore[union-attr]
    assert (found["verdict"], found["defense"]) == (word, defense)
    assert float(plain) == pytest.approx(1 - found["protection"]["mean"], abs=NEAR)
    assert float(worst) == pytest.approx(found["theft"]["mean"], abs=NEAR)
    assert "ONE-SEED" in found["flags"]
    assert "does not protect" in told.out
    assert "mergelock" in (place / "verdict.html").read_text(encoding="utf-8")


def test_what_is_missing_is_trained(
    page: Callable[[str], Any], shell: Callable[..., Any], places: dict[str, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    place = stand(places, PAGE, monkeypatch)
    whole = toml(page(PAGE), "# mine.toml")
    trained = toml(page(PAGE), "[tasks.weather]").replace("5e-5", "2e-4")  # the models of this test are tiny
    text = re.sub(r"\[tasks\.weather\]\n.*?(?=\n\n|\Z)", trained.rstrip(), whole, flags=re.DOTALL)
    (place / "trained.toml").write_text(text, encoding="utf-8")
    told = shell(
        "run", "--scenario", "trained.toml", "--defense", "mergelock", "--attack", "gauge-fit", "--out", "trained"
    )
    assert told.code == 0, told.out + told.err
    assert verdicts(place / "trained")["mergelock"]["theft"] is not None
