"""CSV and JSON as other programs read them."""

from __future__ import annotations

import csv
import json
import re
from importlib.resources import files
from pathlib import Path
from typing import Any

import jsonschema
import pytest
from redteam_reports import cells_csv, markdown, results_json

from redteam.answer import sentence
from redteam.evaluation.gate import gate
from redteam.evaluation.results import Results
from tests.reports.conftest import KEPT

SCHEMA = json.loads(files("redteam_reports").joinpath("results.schema.json").read_text("utf-8"))


@pytest.fixture(scope="module")
def little(made: Any) -> Results:
    few: Results = made(seeds=1, scenarios=("digits",), mergers=("ties",))
    return few.model_copy(update={"gate": gate(few.verdicts, ["theft>=0.5"])})


class TestJson:
    def test_the_published_schema_is_that_of_the_model(self) -> None:
        assert Results.published_schema() == SCHEMA, "write it anew: redteam report --schema > results.schema.json"
        jsonschema.Draft202012Validator.check_schema(SCHEMA)

    def test_what_is_written_keeps_to_it(self, little: Results, tmp_path: Path) -> None:
        results_json.write(little, tmp_path / "r.json")
        jsonschema.validate(json.loads((tmp_path / "r.json").read_text()), SCHEMA)

    @pytest.mark.parametrize("name", ["verdicts", "cells", "schema", "gate"])
    def test_it_refuses_what_lacks_something(self, little: Results, name: str) -> None:
        written = json.loads(little.model_dump_json(by_alias=True))
        del written[name]
        with pytest.raises(jsonschema.ValidationError):
            jsonschema.validate(written, SCHEMA)
        with pytest.raises(jsonschema.ValidationError):
            jsonschema.validate({**json.loads(little.model_dump_json(by_alias=True)), "more": 1}, SCHEMA)


class TestCsv:
    def read(self, results: Results, path: Path) -> list[dict[str, str]]:
        cells_csv.write(results, path)
        with path.open(newline="", encoding="utf-8") as file:
            return list(csv.DictReader(file, strict=True))

    def test_holds_every_cell_with_its_figures(self, full: Results, tmp_path: Path) -> None:
        rows = self.read(full, tmp_path / "c.csv")
        assert len(rows) == len(full.cells)
        for row, cell in zip(rows, full.cells, strict=True):
            assert (row["defense"], row["attack"], int(row["seed"])) == (cell.defense, cell.attack, cell.seed)
            if cell.status == "ok":
                assert float(row["scores.theft"]) == cell.scores["theft"]
                assert float(row["scores.fidelity.float32"]) == cell.scores["fidelity"]["float32"]
                assert {t: float(row[f"tasks.{t}"]) for t in cell.tasks} == cell.tasks
            else:
                assert (row["status"], row["reason"], row["scores.theft"]) == (cell.status, cell.reason, "")

    def test_lines_and_quotes_are_those_of_rfc_4180(self, full: Results, tmp_path: Path) -> None:
        odd = full.cells[0].model_copy(update={"status": "error", "reason": 'two\nlines, "quoted"; ünïcode'})
        results = full.model_copy(update={"cells": (odd,)})
        (row,) = self.read(results, tmp_path / "c.csv")
        assert row["reason"] == odd.reason
        content = (tmp_path / "c.csv").read_bytes()
        assert content.count(b"\r\n") == 2
        assert not content.startswith(b"\xef\xbb\xbf")

    @pytest.mark.parametrize(
        "text", ["=1+1", "+1", "-1", "@SUM(A1)", "\t=1", "\r=1", "\nx", " =1", "＝1", "=HYPERLINK(x)", "'=1", "''-1"]
    )
    def test_nothing_is_taken_for_a_formula(self, full: Results, tmp_path: Path, text: str) -> None:
        odd = full.cells[0].model_copy(update={"reason": text})
        below = full.cells[0].model_copy(update={"scores": {"seen": -0.5}})
        rows = self.read(full.model_copy(update={"cells": (odd, below)}), tmp_path / "c.csv")
        assert rows[0]["reason"] == f"'{text}"
        assert re.sub(rf"^'(?={cells_csv.FORMULA.pattern})", "", rows[0]["reason"]) == text, "it can be read back"
        assert float(rows[1]["scores.seen"]) == -0.5, "numbers stay numbers"

    @pytest.mark.parametrize("text", ["gauge-fit+graft", "a-b", "'tis", "x@y", "mine.py@mine:share=-0.5", "n = 1"])
    def test_honest_names_are_as_they_were(self, full: Results, tmp_path: Path, text: str) -> None:
        odd = full.cells[0].model_copy(update={"attack": text, "reason": text})
        (row,) = self.read(full.model_copy(update={"cells": (odd,)}), tmp_path / "c.csv")
        assert (row["attack"], row["reason"]) == (text, text)


class TestMarkdown:
    def test_says_what_it_must_in_the_order_it_must(self, full: Results, tmp_path: Path) -> None:
        markdown.write(full, tmp_path / "r.md")
        text = (tmp_path / "r.md").read_text()
        assert text.startswith("**Theft figures are lower bounds:")
        order = [
            "## Verdicts",
            "## What was tested",
            "## What was not tested",
            "## Why",
            "## Theft by",
            "## Controls",
            "## Cells",
            "## How to repeat it",
        ]
        places = [text.index(f"\n{head}") for head in order]
        assert places == sorted(places)
        for verdict in full.verdicts:
            assert f"### `{verdict.defense}` on {verdict.scenario}, {verdict.threat}: {verdict.verdict}" in text
            assert verdict.theft is None or f"- Theft: {verdict.theft} by `{verdict.attack}`" in text
            assert f"- {sentence(verdict, full.about['defense'])}" in text
        assert "censored: no attack that was tried gets nine tenths" in text
        assert all(flag.do in text for flag in full.flags.values())
        assert all(f"- {line}" in text for line in full.untested)

    def test_tables_keep_their_columns(self, full: Results, tmp_path: Path) -> None:
        odd = full.cells[0].model_copy(update={"status": "error", "reason": "a | b\nc"})
        markdown.write(full.model_copy(update={"cells": (odd,)}), tmp_path / "r.md")
        lines = (tmp_path / "r.md").read_text().partition("## Cells")[2].splitlines()
        widths: Any = {line.replace("\\|", "").count("|") for line in lines[:9] if line.startswith("|")}
        assert len(widths) == 1


def test_markdown_has_what_keeps_every_expert_whole(full: Results, tmp_path: Path) -> None:
    markdown.write(full.model_copy(update={"whole": KEPT}), tmp_path / "r.md")
    part = (tmp_path / "r.md").read_text().partition("## Mergers that keep every expert whole")[2].partition("\n## ")[0]
    first, second = (line for line in part.splitlines() if line.startswith("| `masks`"))
    assert first == "| `masks` | `lock` | 0.97 [0.93, 1.00] | 0.98 [0.94, 1.00] | `gauge-fit` | 2.09 × | 1.00 × |"
    assert second == "| `masks` | `none` | – | – | adds too little &lt;here> | – | – |"
