"""What is kept of a finished run: small, the same every time, and whole but for single cells."""

from __future__ import annotations

import gzip
import re
from html import escape
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import pytest

from redteam.evaluation.results import Results
from redteam.plugins.files import module_from

TOOL = module_from(Path(__file__).resolve().parents[2] / "tools" / "reference.py")


@pytest.fixture(params=TOOL.PAGES)
def run(made: Any, request: pytest.FixtureRequest) -> Results:
    """Of the plan that a page is called by."""
    small: Results = made(scenarios=("digits",), mergers=("ties",))
    gauntlets = {"gauntlet-1": ("graft", "gauge-fit")} if request.param == "tables" else {}
    return small.model_copy(update={"plan": {**small.plan, "name": request.param}, "gauntlets": gauntlets})


@pytest.fixture
def readme(tmp_path: Path) -> Path:
    path = tmp_path / "README.md"
    path.write_text("".join(f"before\n{TOOL.begin(name)}\nold\n{TOOL.END}\nafter\n" for name in TOOL.PAGES))
    return path


def written(run: Results, home: Path, readme: Path) -> dict[str, Path]:
    """The files of a run and its page."""
    return {path.name: path for path in (TOOL.keep(run, home), *TOOL.draw(run.plan["name"], home, readme))}


def test_everything_but_cells_is_kept(run: Results, readme: Path, tmp_path: Path) -> None:
    files = written(run, tmp_path / "kept", readme)
    name = run.plan["name"]
    held = Results.model_validate_json(gzip.decompress(files[f"{name}.json.gz"].read_bytes()))
    assert held == run.model_copy(update={"cells": (), "command": held.command})
    assert held.command == re.sub(r" --out \S+", "", run.command), "where it was written is nobody else's business"
    assert any(figure.per_seed for figure in held.figures)
    assert (f"{name}.md" in files) == bool(run.gauntlets)
    again = {name: path.read_bytes() for name, path in written(run, tmp_path / "again", readme).items()}
    assert again == {file: path.read_bytes() for file, path in files.items()}


def test_only_its_part_of_the_readme_is_written(run: Results, readme: Path, tmp_path: Path) -> None:
    written(run, tmp_path / "kept", readme)
    text, name = readme.read_text(), run.plan["name"]
    (other,) = (one for one in TOOL.PAGES if one != name)
    assert f"{TOOL.begin(other)}\nold\n{TOOL.END}" in text
    assert f"before\n{TOOL.begin(name)}\n{TOOL.drawn(name, tmp_path / 'kept')}\n{TOOL.END}\nafter" in text
    assert "five seeds, 2026-11-27" in text


def test_the_picture_shows_every_defense_with_its_word(run: Results) -> None:
    drawn = TOOL.picture(run)
    ElementTree.fromstring(drawn)
    here = [v for v in run.verdicts if v.threat == "weights-only"]
    assert len(here) > 5
    for verdict in here:
        assert f">{escape(verdict.defense)}</text>" in drawn
        assert f"{verdict.verdict}</text>" in drawn


def test_a_run_of_another_plan_is_refused(full: Results, tmp_path: Path) -> None:
    with pytest.raises(SystemExit, match="made-up"):
        TOOL.keep(full, tmp_path)


def test_runs_of_one_page_are_side_by_side_on_it(made: Any, readme: Path, tmp_path: Path) -> None:
    main: Results = made(scenarios=("digits",), mergers=("ties",))
    beside = [
        {"scenario": "docstrings", "verdict": "HOLDS-SO-FAR" if row.defense == "mergelock" else row.verdict}
        for row in main.verdicts
    ]
    verdicts = tuple(row.model_copy(update=new) for row, new in zip(main.verdicts, beside, strict=True))
    moved = {
        name: tuple(row.model_copy(update={"scenario": "docstrings"}) for row in getattr(main, name))
        for name in ("grounds", "figures", "controls", "subjects")
    }
    named = [main.model_copy(update={"plan": {**main.plan, "name": name}}) for name in ("tables", "published")]
    TOOL.keep(named[0], tmp_path)
    alone = TOOL.drawn("tables", tmp_path)
    TOOL.keep(named[1].model_copy(update={**moved, "verdicts": verdicts}), tmp_path)
    list(TOOL.draw("tables", tmp_path, readme))
    page = TOOL.page_of("tables", tmp_path)
    assert {verdict.scenario for verdict in page.verdicts} == {"digits", "docstrings"}
    assert page.plan["name"] == "tables"
    told = TOOL.drawn("tables", tmp_path)
    assert told.startswith(alone), "the picture and the list stay those of the first run"
    assert "- `mergelock` under `weights-only`: BROKEN on `digits`" in told
    assert "docstrings, weights-only" in (tmp_path / "tables.html").read_text(encoding="utf-8")
    assert not (tmp_path / "published.html").exists()
