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


@pytest.fixture(params=TOOL.NAMES)
def run(made: Any, request: pytest.FixtureRequest) -> Results:
    small: Results = made(scenarios=("digits",), mergers=("ties",))
    gauntlets = {"gauntlet-1": ("graft", "gauge-fit")} if request.param == "tables" else {}
    return small.model_copy(update={"plan": {**small.plan, "name": request.param}, "gauntlets": gauntlets})


@pytest.fixture
def readme(tmp_path: Path) -> Path:
    path = tmp_path / "README.md"
    path.write_text("".join(f"before\n{TOOL.begin(name)}\nold\n{TOOL.END}\nafter\n" for name in TOOL.NAMES))
    return path


def test_everything_but_cells_is_kept(run: Results, readme: Path, tmp_path: Path) -> None:
    files = {path.name: path for path in TOOL.keep(run, tmp_path / "kept", readme)}
    name = run.plan["name"]
    held = Results.model_validate_json(gzip.decompress(files[f"{name}.json.gz"].read_bytes()))
    assert held == run.model_copy(update={"cells": (), "command": held.command})
    assert held.command == re.sub(r" --out \S+", "", run.command), "where it was written is nobody else's business"
    assert any(figure.per_seed for figure in held.figures)
    assert (f"{name}.md" in files) == bool(run.gauntlets)
    again = {path.name: path.read_bytes() for path in TOOL.keep(run, tmp_path / "again", readme)}
    assert again == {file: path.read_bytes() for file, path in files.items()}


def test_only_its_part_of_the_readme_is_written(run: Results, readme: Path, tmp_path: Path) -> None:
    list(TOOL.keep(run, tmp_path / "kept", readme))
    text, name = readme.read_text(), run.plan["name"]
    (other,) = (one for one in TOOL.NAMES if one != name)
    assert f"{TOOL.begin(other)}\nold\n{TOOL.END}" in text
    assert f"before\n{TOOL.begin(name)}\n{TOOL.drawn(run)}\n{TOOL.END}\nafter" in text
    assert "five seeds, 2026-11-27" in text


def test_the_picture_shows_every_defense_with_its_word(run: Results) -> None:
    drawn = TOOL.picture(run)
    ElementTree.fromstring(drawn)
    here = [v for v in run.verdicts if v.threat == "weights-only"]
    assert len(here) > 5
    for verdict in here:
        assert f">{escape(verdict.defense)}</text>" in drawn
        assert f"{verdict.verdict}</text>" in drawn


def test_a_run_of_another_plan_is_refused(full: Results, readme: Path, tmp_path: Path) -> None:
    with pytest.raises(SystemExit, match="made-up"):
        list(TOOL.keep(full, tmp_path, readme))
