"""One verdict above all outputs: what a file says never contradicts the exit code."""

from __future__ import annotations

import csv
import io
import json
import re
from collections.abc import Callable
from html import unescape
from pathlib import Path
from typing import Any, get_args
from xml.etree import ElementTree

import pytest
import xmlschema

from redteam.evaluation.gate import gate, told
from redteam.evaluation.results import Cell, Control, OverVictims, Results
from redteam.evaluation.statistics import Interval
from redteam.evaluation.verdict import Word
from redteam.plugins.registry import REPORTS

SCHEMA = xmlschema.XMLSchema(Path(__file__).with_name("junit.xsd"))
GATES = {"not asked": [], "held": ["theft>=0.9"], "failed": ["theft>=0.5"], "undefined": ["advantage>=0.5"]}
DOUBTFUL = ("UNSCORABLE", "INVALID")


def results(made: Any, word: str, expressions: list[str]) -> Results:
    """Two verdicts of which the second has the word; theft 0.6 in it, 0.1 in the other."""
    small: Results = made(seeds=1, scenarios=("digits",), defenses=("mergelock",), threats=("weights-only",))
    first = small.verdicts[0].model_copy(update={"verdict": "HOLDS-SO-FAR", "theft": at(0.1), "defense": "other"})
    second = small.verdicts[0].model_copy(update={"verdict": word, "theft": at(0.6), "reason": "of <that> & this"})
    found = small.model_copy(update={"verdicts": (first, second)})
    return found.model_copy(update={"gate": gate(found.verdicts, expressions)}) if expressions else found


def at(value: float) -> Interval:
    return Interval(value, value - 0.05, value + 0.05, 5, "seeds")


def written(found: Results, extension: str, folder: Path) -> str:
    path = folder / f"report.{extension}"
    REPORTS.load(extension).function(found, path)
    return path.read_bytes().decode()


def expected(word: str, outcome: str) -> int:
    if word in DOUBTFUL or outcome == "undefined":
        return 2
    return 1 if outcome == "failed" else 0


def html(text: str, found: Results) -> None:
    assert f'data-exit-code="{found.exit_code}"' in text
    assert f"{told(found.gate)} Exit code {found.exit_code}.".replace(">", "&gt;") in text
    assert ("Not everything could be evaluated" in text) == (found.exit_code == 2)
    states = re.findall(r"<dt>Gate <code>[^<]*</code></dt><dd>([^<]*)</dd>", text)
    assert ("failed" in states) == bool(found.gate and found.gate.failed)
    assert ("undefined" in states) == bool(found.gate and found.gate.undefined)
    assert len(states) == (0 if found.gate is None else len(found.verdicts))


def markdown(text: str, found: Results) -> None:
    text = unescape(text)
    assert f"{told(found.gate)} Exit code {found.exit_code}." in text
    assert all(f"- {line}." in text for line in found.unevaluated)
    assert all(f"{v.threat}: {v.verdict}" in text for v in found.verdicts)


def junit(text: str, found: Results) -> None:
    SCHEMA.validate(text)
    top = ElementTree.fromstring(text)
    failures, errors = top.findall(".//failure"), top.findall(".//error")
    assert (int(top.attrib["failures"]), int(top.attrib["errors"])) == (len(failures), len(errors))
    assert int(top.attrib["tests"]) == len(top.findall(".//testcase"))
    for suite in top:
        for kind, count in (
            ("failure", "failures"),
            ("error", "errors"),
            ("skipped", "skipped"),
            ("testcase", "tests"),
        ):
            assert int(suite.attrib[count]) == len(suite.findall(f".//{kind}"))
    assert len(failures) == len(found.gate.failed if found.gate else ())
    assert bool(errors) == (found.exit_code == 2)
    assert (found.exit_code == 1) == bool(failures and not errors)
    assert (found.exit_code == 0) == (not failures and not errors)
    names = [case.attrib["name"] for case in top.iter("testcase")]
    assert {verdict.defense for verdict in found.verdicts} < set(names)
    assert len(names) == 1 + len(found.verdicts) + len(found.controls)


def as_json(text: str, found: Results) -> None:
    read = Results.model_validate_json(text)
    assert read == found
    assert read.exit_code == found.exit_code
    outcome = json.loads(text)["gate"]
    assert (outcome and outcome["outcome"]) == (found.gate and found.gate.outcome)


def as_csv(text: str, found: Results) -> None:
    rows = list(csv.DictReader(io.StringIO(text)))
    assert [row["status"] for row in rows] == [cell.status for cell in found.cells]


def board(text: str, found: Results) -> None:
    rows = [line.split(" | ") for line in text.splitlines() if line.startswith("| ")]
    for verdict in found.verdicts:
        assert any(f"`{verdict.defense}`" in row[1] and verdict.verdict in row[2] for row in rows if len(row) > 2)


CHECKS: dict[str, Callable[[str, Results], None]] = {
    "html": html,
    "md": markdown,
    "junit.xml": junit,
    "json": as_json,
    "csv": as_csv,
    "leaderboard.md": board,
}


def test_every_output_is_checked() -> None:
    assert set(CHECKS) == set(REPORTS.names)


@pytest.mark.parametrize("outcome", GATES)
@pytest.mark.parametrize("word", get_args(Word))
@pytest.mark.parametrize("extension", CHECKS)
def test_no_output_contradicts_the_exit_code(
    made: Any, tmp_path: Path, extension: str, word: str, outcome: str
) -> None:
    found = results(made, word, GATES[outcome])
    assert found.exit_code == expected(word, outcome)
    CHECKS[extension](written(found, extension, tmp_path), found)


@pytest.mark.parametrize("extension", CHECKS)
@pytest.mark.parametrize("trouble", ["cell error", "cell timeout", "cell skipped", "control error", "no verdict"])
def test_nor_where_something_did_not_run(made: Any, tmp_path: Path, extension: str, trouble: str) -> None:
    found = results(made, "HOLDS-SO-FAR", GATES["held"])
    what, _, status = trouble.partition(" ")
    if what == "cell":
        given = found.cells[0].model_dump() | {"status": status, "reason": "it\x00 fell <over>", "scores": {}}
        found = found.model_copy(update={"cells": (Cell(**given), *found.cells[1:])})
    elif what == "control":
        given = found.controls[0].model_dump() | {"status": status, "passed": False}
        found = found.model_copy(update={"controls": (Control(**given), *found.controls[1:])})
    else:
        found = found.model_copy(update={"verdicts": (), "gate": None})
    assert found.exit_code == (0 if status == "skipped" else 2)
    text = written(found, extension, tmp_path)
    CHECKS[extension](text, found)


def test_a_failed_control_alone_is_a_warning(made: Any, tmp_path: Path) -> None:
    found = results(made, "BROKEN", [])
    assert any(not control.passed for control in found.controls)
    top = ElementTree.fromstring(written(found, "junit.xml", tmp_path))
    told_of = [one.attrib["message"] for one in top.iter("skipped")]
    assert len(told_of) == sum(not control.passed for control in found.controls)
    assert sorted(message.partition(":")[0] for message in told_of) == ["failed", "in part", "warns"]


def test_a_verdict_is_in_the_words_that_the_evaluation_has() -> None:
    from redteam_reports.wording import MEANING, SHOWS

    assert set(MEANING) == set(get_args(Word))
    assert set(SHOWS) == set(get_args(Control.model_fields["control"].annotation))


def test_a_victim_that_is_left_out_is_no_failure_in_any_format(made: Any, tmp_path: Path) -> None:
    found = results(made, "UNSCORABLE", [])
    kept, gone = found.verdicts
    gone = gone.model_copy(update={"scenario": "digits:victim=letters", "defense": kept.defense})
    over = OverVictims(
        scenario="digits:victim=each", defense=kept.defense, threat=kept.threat, verdict=kept.verdict,
        reason="HOLDS-SO-FAR on 1 of 1 victim (digits); left out letters: it adds too little",
        victims={"digits": kept.scenario, "letters": gone.scenario}, left_out=("letters",), theft=at(0.1),
        by={"digits": 5},
    )  # fmt: skip
    found = found.model_copy(update={"verdicts": (kept, gone), "over_victims": (over,)})
    found = found.model_copy(update={"gate": gate(found.told, ["theft>=0.5"])})
    assert found.exit_code == 0
    top = ElementTree.fromstring(written(found, "junit.xml", tmp_path))
    assert (top.get("errors"), top.get("failures")) == ("0", "0")
    (skipped,) = (
        case for case in top.iter("testcase") if case.get("classname") == "digits:victim=letters, weights-only"
    )
    assert skipped.find("skipped") is not None
    page = written(found, "html", tmp_path)
    assert re.findall(r"<dt>Gate <code>[^<]*</code></dt><dd>([^<]*)</dd>", page) == ["held", "not asked of it"]
    assert "left out letters" in written(found, "md", tmp_path)
