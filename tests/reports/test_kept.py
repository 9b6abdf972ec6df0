"""What is kept of a finished run: small, the same every time, and whole but for single cells."""

from __future__ import annotations

import gzip
import re
from html import escape
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import pytest

from redteam.evaluation.results import ByMerger, Results
from redteam.evaluation.statistics import Interval
from redteam.plugins.files import module_from

TOOL = module_from(Path(__file__).resolve().parents[2] / "tools" / "reference.py")


@pytest.fixture(params=TOOL.PAGES)
def run(made: Any, request: pytest.FixtureRequest) -> Results:
    """Of the plan that a page is called by."""
    small: Results = made(scenarios=("digits",), mergers=("ties",))
    gauntlets = {"gauntlet-1": ("graft", "gauge-fit")} if request.param in ("tables", "seals") else {}
    new = {"plan": {**small.plan, "name": request.param}, "gauntlets": gauntlets, "by_merger": ()}
    if request.param == "mergers":
        half = Interval(mean=0.5, low=0.4, high=0.6, seeds=5, over="seeds")
        places = dict.fromkeys((v.scenario, v.defense, v.threat) for v in small.verdicts if v.threat == "weights-only")
        new["by_merger"] = tuple(
            ByMerger(scenario=s, defense=d, threat=t, merger=m, gain=half, telling=m == "ties", naive=half, worst=worst)
            for s, d, t in places
            for m, worst in (("ties", half), ("late", None))
        )
    return small.model_copy(update=new)


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """Below it every document that speaks of a page."""
    (tmp_path / "docs").mkdir()
    for document in set(TOOL.TOLD.values()):
        names = (name for name in TOOL.PAGES if TOOL.TOLD[name] == document)
        told = "".join(f"before\n{TOOL.begin(name)}\nold\n{TOOL.END}\nafter\n" for name in names)
        (tmp_path / document).write_text(told)
    return tmp_path


def written(run: Results, home: Path, root: Path) -> dict[str, Path]:
    """The files of a run and its page."""
    return {path.name: path for path in (TOOL.keep(run, home), *TOOL.draw(run.plan["name"], home, root))}


def test_everything_but_cells_is_kept(run: Results, root: Path, tmp_path: Path) -> None:
    files = written(run, tmp_path / "kept", root)
    name = run.plan["name"]
    held = Results.model_validate_json(gzip.decompress(files[f"{name}.json.gz"].read_bytes()))
    assert held == run.model_copy(update={"cells": (), "command": held.command})
    assert held.command == re.sub(r" --out \S+", "", run.command), "where it was written is nobody else's business"
    assert any(figure.per_seed for figure in held.figures)
    assert (tmp_path / "kept" / f"{name}.md").exists() == bool(run.gauntlets)
    again = {name: path.read_bytes() for name, path in written(run, tmp_path / "again", root).items()}
    assert again == {file: path.read_bytes() for file, path in files.items()}


def test_only_its_part_of_its_document_is_written(run: Results, root: Path, tmp_path: Path) -> None:
    written(run, tmp_path / "kept", root)
    name = run.plan["name"]
    for other in TOOL.PAGES:
        assert (f"{TOOL.begin(other)}\nold\n{TOOL.END}" in (root / TOOL.TOLD[other]).read_text()) == (other != name)
    text = (root / TOOL.TOLD[name]).read_text()
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


def test_mergers_stand_below_each_other_and_locks_side_by_side(run: Results, root: Path, tmp_path: Path) -> None:
    if run.plan["name"] != "mergers":
        pytest.skip("of the page on mergers alone")
    written(run, tmp_path / "kept", root)
    lines = (root / "docs" / "mergers.md").read_text().splitlines()
    head, _, *rows = [line for line in lines if line.startswith("|")]
    defenses = dict.fromkeys(row.defense for row in run.by_merger)
    assert head == "| merger | gain | " + " | ".join(f"`{defense}`" for defense in defenses) + " |"
    assert [row.split(" | ")[:3] for row in rows] == [
        ["| `ties`", "0.50 [0.40, 0.60]", "0.50 → 0.50"],
        ["| `late`", "0.50 [0.40, 0.60]", "0.50 → –"],
    ]


def test_runs_of_one_page_are_side_by_side_on_it(made: Any, root: Path, tmp_path: Path) -> None:
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
    list(TOOL.draw("tables", tmp_path, root))
    page = TOOL.page_of("tables", tmp_path)
    assert {verdict.scenario for verdict in page.verdicts} == {"digits", "docstrings"}
    assert page.plan["name"] == "tables"
    told = TOOL.drawn("tables", tmp_path)
    assert told.startswith(alone), "the picture and the list stay those of the first run"
    assert "- `mergelock` under `weights-only`: BROKEN on `digits`" in told
    assert "docstrings, weights-only" in (tmp_path / "tables.html").read_text(encoding="utf-8")
    assert not (tmp_path / "published.html").exists()
