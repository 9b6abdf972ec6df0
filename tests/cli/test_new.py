from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from redteam.cli import main as cli
from redteam.plugins.source import first_line
from redteam.testing import checks_for, toy_results

KINDS = ("attack", "defense", "merger", "scenario")
Invoke = Callable[..., tuple[int, str, str]]

pytest_plugins = ("pytester",)


@pytest.fixture
def redteam(capsys: pytest.CaptureFixture[str]) -> Invoke:
    def invoke(*arguments: str) -> tuple[int, str, str]:
        with pytest.raises(SystemExit) as left:
            cli.main(arguments)
        captured = capsys.readouterr()
        return int(left.value.code or 0), captured.out, captured.err

    return invoke


@pytest.mark.parametrize("kind", [pytest.param(k, marks=[pytest.mark.slow] if k == "scenario" else []) for k in KINDS])
def test_what_it_writes_passes_the_check(redteam: Invoke, tmp_path: Path, kind: str) -> None:
    code, out, _ = redteam("new", kind, "my-own", "--out", str(tmp_path / "new"))
    assert code == 0
    file = tmp_path / "new" / "my_own.py"
    assert len(file.read_text().splitlines()) <= (60 if kind == "scenario" else 30)
    assert first_line(file).startswith("MyOwn: ")
    assert f"redteam check {file}@my-own" in out
    outcomes = [check.run() for check in checks_for(f"{file}@my-own")]
    assert [outcome for outcome in outcomes if outcome.status == "failed"] == []
    assert {outcome.status for outcome in outcomes} <= {"passed", "not applicable"}


@pytest.mark.parametrize("kind", [pytest.param(k, marks=[pytest.mark.slow] * (k == "scenario")) for k in KINDS])
def test_its_test_runs(redteam: Invoke, pytester: pytest.Pytester, kind: str) -> None:
    redteam("new", kind, "my-own", "--out", str(pytester.path))
    done = pytester.runpytest_inprocess("-p", "no:cacheprovider", "test_my_own.py")
    outcomes = done.parseoutcomes()
    assert outcomes["passed"] >= 13
    assert "failed" not in outcomes
    assert set(outcomes) <= {"passed", "skipped"}


def test_it_is_formatted_as_this_project_is(redteam: Invoke, tmp_path: Path) -> None:
    for kind in KINDS:
        redteam("new", kind, f"a-new-{kind}", "--out", str(tmp_path))
    ruff = [Path(sys.executable).with_name("ruff")]
    for command in (["format", "--check", "--line-length", "120"], ["check", "--line-length", "120"]):
        done = subprocess.run([*ruff, *command, "--isolated", tmp_path], capture_output=True, text=True)
        assert done.returncode == 0, done.stdout


def test_nothing_is_overwritten(redteam: Invoke, tmp_path: Path) -> None:
    (tmp_path / "test_my_own.py").write_text("mine")
    code, out, err = redteam("new", "attack", "my-own", "--out", str(tmp_path))
    assert (code, out) == (2, "")
    assert err == f"Error: {tmp_path}/test_my_own.py exists already; choose another name or another folder (--out).\n"
    assert [file.name for file in tmp_path.iterdir()] == ["test_my_own.py"]


@pytest.mark.parametrize(
    ("kind", "name", "sentence"),
    [
        ("attack", "My-Own", "lower-case words joined by hyphens, not 'My-Own'"),
        ("attack", "my_own", "lower-case words joined by hyphens"),
        ("attack", "../own", "lower-case words joined by hyphens"),
        ("attack", "lambda", "a word of Python's own"),
        ("attack", "random", "the name of a Python module already"),
        ("attack", "redteam", "the name of a Python module already"),
        ("atack", "mine", "did you mean 'attack'?"),
        ("report", "my-own", "called by the ending of its files, such as txt"),
        ("plan", "mine", "no kind of plugin to write called 'plan'"),
    ],
)
def test_a_bad_name_is_one_sentence(redteam: Invoke, tmp_path: Path, kind: str, name: str, sentence: str) -> None:
    code, out, err = redteam("new", kind, name, "--out", str(tmp_path / "deep"))
    assert (code, out) == (2, "")
    assert sentence in err
    assert err.count("\n") == 1
    assert not (tmp_path / "deep").exists()


def test_a_folder_that_cannot_be_written(redteam: Invoke, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    code, _, err = redteam("new", "attack", "my-own", "--out", str(tmp_path / "file" / "deep"))
    assert code == 2
    assert "cannot be written" in err


def test_a_report_is_used_at_once(redteam: Invoke, pytester: pytest.Pytester, tmp_path: Path) -> None:
    code, out, _ = redteam("new", "report", "lines", "--out", str(pytester.path))
    assert code == 0
    plugin = pytester.path / "lines.py"
    assert f"  redteam report runs/quick -o {plugin}@lines=report.lines" in out
    done = pytester.runpytest_inprocess("-p", "no:cacheprovider", "test_lines.py")
    assert done.parseoutcomes() == {"passed": 1}
    toy_results().write(tmp_path / "results.json")
    code, out, err = redteam("report", str(tmp_path), "-o", f"{plugin}@lines={tmp_path}/page.any")
    assert (code, err) == (2, ""), "some verdicts of the toy say that nothing can be said"
    assert out.endswith(f"\nreport: {tmp_path}/page.any\n")
    assert (tmp_path / "page.any").read_text().count("\n") == len(toy_results().verdicts)
    assert redteam("show", f"{plugin}@lines")[1].startswith(f"report {plugin}@lines\n")
    code, _, err = redteam("report", str(tmp_path), "-o", f"{plugin}@line={tmp_path}/page.any")
    assert (code, "did you mean 'lines'?" in err) == (2, True)
