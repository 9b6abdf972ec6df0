"""`redteam report`, in this process: what it writes, prints and refuses."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from pathlib import Path

import pytest

from redteam.cli import main as cli
from redteam.evaluation.rederive import disagreements
from redteam.evaluation.results import Gate, Results, Verdict
from redteam.evaluation.statistics import Interval
from redteam.plugins.registry import REPORTS
from redteam.testing import toy_results

Invoke = Callable[..., tuple[int, str, str]]


@pytest.fixture
def redteam(capsys: pytest.CaptureFixture[str]) -> Invoke:
    """Runs the command line in this process: exit code, standard output, standard error."""

    def invoke(*words: str | Path) -> tuple[int, str, str]:
        with pytest.raises(SystemExit) as left:
            cli.main([str(word) for word in words])
        captured = capsys.readouterr()
        return int(left.value.code or 0), captured.out, captured.err

    return invoke


@pytest.fixture
def finished(tmp_path: Path) -> Path:
    """The folder of a run in which one lock holds and one is broken."""
    made = [
        Verdict(
            scenario="toy",
            defense=defense,
            threat="weights-only",
            verdict=word,
            reason="it is so",
            flags=("PRELIMINARY",),
            attack="some-attack",
            merger="some-merger",
            theft=Interval(theft, theft - 0.1, theft + 0.1, 3, "seeds, preliminary"),
        )
        for defense, word, theft in (("weak", "BROKEN", 0.8), ("strong", "HOLDS-SO-FAR", 0.2))
    ]
    results = Results(
        schema=2,
        plan={"name": "small", "defenses": ["weak", "strong"]},
        command="redteam run small.toml",
        environment={"redteam": "0.1.0", "engine": "0" * 64},
        thresholds={"stolen": 0.5, "digest": "1" * 64},
        grounds=(),
        cells=(),
        controls=(),
        verdicts=tuple(made),
    )
    results.write(tmp_path / "run" / "results.json")
    return tmp_path / "run"


def test_prints_the_verdicts(redteam: Invoke, finished: Path) -> None:
    code, out, err = redteam("report", finished)
    assert (code, err) == (0, "")
    assert "weak does not protect: from the weights and the public base alone" in out
    assert "strong held against everything that was tried: " in out
    assert "lower bounds: a stronger attack can only raise them" in out
    assert "gate" not in out
    assert "PRELIMINARY" not in out
    assert "BROKEN weak under weights-only: it is so." in redteam("report", finished, "-v")[1]


def test_prints_what_the_file_holds(redteam: Invoke, finished: Path, tmp_path: Path) -> None:
    code, out, err = redteam("report", finished, "--json", "-o", tmp_path / "page.md")
    assert (code, out, err) == (0, (finished / "results.json").read_text(), "")
    assert (tmp_path / "page.md").is_file()


def test_writes_every_format_beside_each_other(redteam: Invoke, finished: Path, tmp_path: Path) -> None:
    names = ["r.html", "r.md", "r.json", "r.junit.xml", "deep/er/r.csv"]
    code, out, _ = redteam("report", finished, *(word for name in names for word in ("-o", tmp_path / name)))
    assert code == 0
    assert [line.removeprefix("report: ") for line in out.splitlines()] == [str(tmp_path / name) for name in names]
    starts = ["<!DOCTYPE html>", "**Theft figures are lower bounds", "{", "<?xml", "scenario,seed"]
    for name, start in zip(names, starts, strict=True):
        assert (tmp_path / name).read_text().startswith(start)
    assert (tmp_path / "r.json").read_text() == (finished / "results.json").read_text()


@pytest.mark.parametrize(
    ("expressions", "code", "outcome"),
    [
        (["theft>=0.5"], 1, "failed"),
        (["theft>=0.9"], 0, "held"),
        (["theft.high>=0.9"], 1, "failed"),
        (["advantage>=0.5"], 2, "undefined"),
        (["theft>=0.9", "theft.low<0.11"], 1, "failed"),
    ],
)
def test_the_gate_decides(
    redteam: Invoke, finished: Path, tmp_path: Path, expressions: list[str], code: int, outcome: str
) -> None:
    asked = [word for text in expressions for word in ("--fail-on", text)]
    before = (finished / "results.json").read_text()
    assert redteam("report", finished, *asked, "-o", tmp_path / "r.json")[0] == code
    left, out, _ = redteam("report", finished, *asked)
    assert left == code
    assert f"The gate {' or '.join(expressions)}" in out
    assert json.loads((tmp_path / "r.json").read_text())["gate"]["outcome"] == outcome
    assert (finished / "results.json").read_text() == before, "the run's own results stay as they are"


def test_the_gate_of_the_run_is_kept_where_none_is_asked(redteam: Invoke, finished: Path) -> None:
    results = Results.read(finished)
    gate = Gate(expression="theft>=0.5", outcome="failed", failed=(("toy", "weak", "weights-only"),))
    results.model_copy(update={"gate": gate}).write(finished / "results.json")
    code, out, _ = redteam("report", finished)
    assert code == 1
    assert "The gate theft>=0.5 failed for weak on toy under weights-only." in out
    assert redteam("report", finished, "--fail-on", "theft>=0.9")[0] == 0


def test_the_schema_is_printed(redteam: Invoke) -> None:
    code, out, _ = redteam("report", "--schema")
    assert code == 0
    assert json.loads(out)["title"] == "Results"


REFUSED = {
    "nowhere": (["report", "nowhere"], "cannot be read (No such file or directory); name the folder of a finished run"),
    "bad gate": (["report", "{run}", "--fail-on", "theft"], "Cannot read the gate 'theft'"),
    "bad extension": (
        ["report", "{run}", "-o", "r.pdf"],
        "must end in one of .csv, .html, .json, .junit.xml, .leaderboard.md, .md.",
    ),
    "bad place": (["report", "{run}", "-o", "/proc/none/r.html"], "/proc/none/r.html cannot be written"),
    "over the results": (["report", "{run}", "-o", "{run}/../{run.name}/results.json"], "is a record of the run"),
    "over the plan": (["report", "{run}/results.json", "-o", "{run}/plan.json"], "is a record of the run"),
}


@pytest.mark.parametrize("what", REFUSED)
def test_refusals_are_one_sentence(redteam: Invoke, finished: Path, what: str) -> None:
    words, sentence = REFUSED[what]
    code, out, err = redteam(*(word.format(run=finished) for word in words))
    assert (code, out) == (2, "")
    assert sentence in err
    assert err.count("\n") == 1


def test_several_runs_are_told_together(redteam: Invoke, finished: Path, tmp_path: Path) -> None:
    first = Results.read(finished)
    elsewhere = tuple(
        verdict.model_copy(update={"scenario": "texts", "verdict": "INCONCLUSIVE"}) for verdict in first.verdicts
    )
    first.model_copy(update={"verdicts": elsewhere}).write(tmp_path / "other" / "results.json")
    code, out, _ = redteam("report", finished, tmp_path / "other")
    assert code == 0
    assert "toy under weights-only" in out
    assert "texts under weights-only" in out
    assert "Not alike everywhere: weak: BROKEN on toy" in out
    code, _, _ = redteam("report", finished, tmp_path / "other", "-o", tmp_path / "both.json")
    assert code == 0
    assert len(json.loads((tmp_path / "both.json").read_text())["runs"]) == 2
    first.model_copy(update={"thresholds": {"stolen": 0.4}}).write(tmp_path / "other" / "results.json")
    code, out, err = redteam("report", finished, tmp_path / "other")
    assert (code, out, err.count("\n")) == (2, "", 1)
    assert "were judged by different limits (stolen 0.5 and 0.4)" in err


def test_results_of_something_else_are_refused(redteam: Invoke, finished: Path) -> None:
    (finished / "results.json").write_text("{}")
    code, _, err = redteam("report", finished)
    assert code == 2
    assert "holds no results that this version reads" in err


def test_the_folder_is_needed(redteam: Invoke) -> None:
    code, _, err = redteam("report")
    assert code == 2
    assert "DIR" in err


def test_show_describes_a_report_with_a_dot_in_its_name(redteam: Invoke) -> None:
    code, out, _ = redteam("show", "junit.xml")
    assert code == 0
    assert out.startswith("report junit.xml")


def test_of_several_runs_the_gate_of_each_counts(redteam: Invoke, finished: Path, tmp_path: Path) -> None:
    found = Results.read(finished)
    for name, verdict, gate in (
        ("weak", found.verdicts[0], Gate(expression="theft>=0.5", outcome="failed", failed=(("toy", "weak", "x"),))),
        ("strong", found.verdicts[1], Gate(expression="theft>=0.9", outcome="held")),
        ("free", found.verdicts[0], None),
    ):
        plan = {**found.plan, "name": name, "fail_on": [] if gate is None else [gate.expression]}
        alone = verdict.model_copy(update={"scenario": name})
        one = found.model_copy(update={"verdicts": (alone,), "gate": gate, "plan": plan})
        one.write(tmp_path / name / "results.json")
    code, out, err = redteam("report", tmp_path / "strong", tmp_path / "weak", "--json")
    assert err == ""
    both = Results.model_validate_json(out)
    assert (code, both.plan["fail_on"]) == (1, ["theft>=0.9", "theft>=0.5"])
    assert both.gate == Gate(expression="theft>=0.9 or theft>=0.5", outcome="failed", failed=(("toy", "weak", "x"),))
    assert not any("the gate" in one.what for one in disagreements(both))
    assert redteam("report", tmp_path / "strong", tmp_path / "free")[0] == 0, "what has no gate fails none"


WRITER = """
from pathlib import Path
from redteam import Results, report

@report("txt")
def lines(results: Results, path: Path) -> None:
    if results.plan["name"] == "small":
        path.write_text("written", encoding="utf-8")
    else:
        raise ValueError("a poor\\nline")
"""


def test_a_writer_in_a_file_writes_where_it_is_told_to_and_answers_for_itself(
    redteam: Invoke, finished: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    monkeypatch.chdir(tmp_path)
    Path("mine.py").write_text(WRITER)
    code, _, err = redteam("report", finished, "-o", "mine.py@txt=~/new folder/a.txt", "-o", "~/b.md")
    assert not err
    assert code == 0
    assert (tmp_path / "home/new folder/a.txt").read_text() == "written"
    assert (tmp_path / "home/b.md").exists()
    assert not Path("~").exists()
    found = Results.read(finished)
    found.model_copy(update={"plan": {**found.plan, "name": "other"}}).write(finished / "results.json")
    code, _, err = redteam("report", finished, "-o", "mine.py@txt=a.txt")
    assert (code, err) == (2, "Error: The report mine.py@txt failed (ValueError: a poor line (line 10)).\n")


def test_the_results_to_try_a_writer_on_go_through_every_writer(redteam: Invoke, tmp_path: Path) -> None:
    toy_results().write(tmp_path / "results.json")
    files = [tmp_path / f"page.{kind}" for kind in REPORTS.names]
    _, _, err = redteam("report", tmp_path, *(word for file in files for word in ("-o", file)))
    assert err == ""
    assert all(file.stat().st_size for file in files)


def test_no_tag_of_a_stranger_is_one_in_markdown(redteam: Invoke, finished: Path, tmp_path: Path) -> None:
    found, evil = Results.read(finished), "` <script>x</script><!-- <img src=x> ``"
    rows = tuple(row.model_copy(update={"reason": evil, "defense": evil}) for row in found.verdicts[:1])
    found.model_copy(update={"verdicts": rows, "claims": {evil: evil}}).write(finished / "results.json")
    files = [tmp_path / "page.md", tmp_path / "page.leaderboard.md"]
    redteam("report", finished, *(word for file in files for word in ("-o", file)))
    for file in files:
        text = file.read_text()
        assert "&lt;script>x" in text
        assert "<details>" in text
        assert not re.search(r"<(script|/script|!|img)", text)
