"""`redteam run`, in this process: what it says, writes and refuses."""

from __future__ import annotations

import contextlib
import html
import io
import json
import os
import re
import shutil
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jsonschema
import pytest

from redteam.cli.main import main
from redteam.evaluation import preview as previewing
from redteam.evaluation import run as evaluation
from redteam.evaluation.plan import Plan

TOY = Path(__file__).parent.parent / "evaluation" / "toy.py"
ATTACK = """
from redteam.plugins.contracts import attack


@attack("{name}")
def {name}(view):
    return view.protected
"""


@dataclass(frozen=True)
class Told:
    code: int
    out: str
    err: str


def redteam(*words: str | Path, where: Path | None = None) -> Told:
    """Runs the command line, in a working directory."""
    out, err = io.StringIO(), io.StringIO()
    stand = contextlib.chdir(where) if where else contextlib.nullcontext()
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err), stand, pytest.raises(SystemExit) as left:
        main([str(word) for word in words])
    return Told(int(left.value.code or 0), out.getvalue(), err.getvalue())


def planned(folder: Path, **changes: Any) -> Path:
    """A small plan in a file, with an attack from a file beside it."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "beside.py").write_text(ATTACK.format(name="beside"))
    shutil.copy(TOY, folder)
    plan = {"scenarios": ["toy.py@toy"], "defenses": ["rotation"], "attacks": ["beside.py@beside"]}
    plan = {**plan, "mergers": ["task-arithmetic"], **changes}
    file = folder / "plan.toml"
    file.write_text("".join(f"{key} = {json.dumps(value)}\n" for key, value in plan.items()))
    return file


@pytest.fixture
def seen(monkeypatch: pytest.MonkeyPatch) -> list[Plan]:
    """The plans that dry runs are made of."""
    plans: list[Plan] = []
    preview = previewing.preview

    def watched(plan: Plan, **rest: Any) -> previewing.Preview:
        plans.append(plan)
        return preview(plan, **rest)

    monkeypatch.setattr(previewing, "preview", watched)
    return plans


class TestRun:
    @pytest.fixture(scope="class")
    @classmethod
    def ran(cls, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Told]:
        """One run, the plan elsewhere than the working directory."""
        home = tmp_path_factory.mktemp("shell")
        planned(home / "plans")
        words = ["run", "plans/plan.toml", "--out", "out", "--workers", "0", "--fail-on", "protection<0.5"]
        words += [word for name in ("new/r.md", "r.json", "r.html", "r.junit.xml", "r.csv") for word in ("-o", name)]
        return home, redteam(*words, where=home)

    def test_tells_verdicts_and_where_the_report_is(self, ran: tuple[Path, Told]) -> None:
        _, told = ran
        assert told.code == 2, "no attack proved itself, so the verdict is INVALID"
        assert "Nothing can be said about Rotation lock: " in told.out
        assert re.search("^INVALID +rotation ", told.out, re.MULTILINE)
        assert "report: out/report.html" in told.out
        assert "lower bounds: a stronger attack can only raise them" in told.out

    def test_progress_is_plain_lines_where_there_is_no_terminal(self, ran: tuple[Path, Told]) -> None:
        _, told = ran
        lines = told.err.splitlines()
        assert lines[0].startswith("Reading the plan plans/plan.toml")
        assert lines[1:3] == ["Plan plan: results go to out", "Scenario toy, seed 0"]
        steps = [re.match(r"\[(\d+)/(\d+)\]", line) for line in lines]
        done, totals = zip(*(map(int, step.groups()) for step in steps if step), strict=True)
        assert done == tuple(range(1, totals[-1] + 1))
        first = int(lines[3].split()[0])
        grown = {int(line.rsplit(" ", 3)[1]) for line in lines if " further computations (" in line}
        assert set(totals) <= {first, *grown}, "the total never grows without a line that says why"

    def test_the_plan_has_a_gate_and_the_shell_replaces_it(self, ran: tuple[Path, Told]) -> None:
        home, _ = ran
        planned(home / "gated", fail_on=["verdict==BROKEN"])
        shutil.copytree(home / "out", home / "gated/out")
        words = ("run", "gated/plan.toml", "--out", "gated/out", "--workers", "0")
        for more, asked in (((), "verdict==BROKEN"), (("--fail-on", "theft>=0.9"), "theft>=0.9")):
            told = redteam(*words, *more, where=home)
            assert f"The gate {asked} " in told.out
            assert json.loads((home / "gated/out/results.json").read_text())["gate"]["expression"] == asked

    def test_reports_are_written_where_asked(self, ran: tuple[Path, Told]) -> None:
        home, _ = ran
        assert (home / "new" / "r.md").read_text() == (home / "out" / "report.md").read_text()
        assert (home / "r.json").read_text() == (home / "out" / "results.json").read_text()
        assert (home / "r.html").read_text() == (home / "out" / "report.html").read_text()
        assert "rotation" in (home / "new" / "r.md").read_text()
        assert (home / "r.junit.xml").read_text().startswith("<?xml")
        assert (home / "r.csv").read_text().startswith("scenario,seed,")

    def test_the_gate_is_in_every_output(self, ran: tuple[Path, Told]) -> None:
        home, told = ran
        sentence = "The gate protection<0.5 is undefined for rotation on toy under weights-only."
        assert sentence in told.out
        assert json.loads((home / "out" / "results.json").read_text())["gate"]["outcome"] == "undefined"
        for name in ("out/report.md", "out/report.html", "r.junit.xml"):
            assert sentence in html.unescape((home / name).read_text())

    def test_the_results_keep_to_the_published_schema(self, ran: tuple[Path, Told]) -> None:
        home, _ = ran
        schema = json.loads(redteam("report", "--schema").out)
        jsonschema.validate(json.loads((home / "out" / "results.json").read_text()), schema)

    def test_a_report_on_the_folder_says_the_same(self, ran: tuple[Path, Told]) -> None:
        home, told = ran
        again = redteam("report", "out", "-o", "again.html", "-o", "again.junit.xml", where=home)
        assert again.code == told.code
        assert (home / "again.html").read_text() == (home / "out" / "report.html").read_text()
        assert (home / "again.junit.xml").read_text() == (home / "r.junit.xml").read_text()
        printed = redteam("report", "out", where=home)
        verdicts = [line for line in told.out.splitlines() if line.startswith("INVALID")]
        assert verdicts
        assert all(line in printed.out for line in verdicts)

    def test_a_dry_run_counts_what_a_run_computed(self, ran: tuple[Path, Told]) -> None:
        home, told = ran
        before = sorted(path for path in home.rglob("*"))
        dry = redteam("run", "plans/plan.toml", "--out", "out", "--dry-run", where=home)
        lines = told.err.splitlines()
        first, (*_, last) = lines[3].split()[0], re.findall(r"^\[\d+/(\d+)\]", told.err, re.MULTILINE)
        assert dry.code == 0
        assert f"cells in the results, from {first} computations" in dry.out
        assert f"{last} computations are cached" in dry.out
        assert "Not loaded" not in dry.out
        plain = json.loads(redteam("run", "plans/plan.toml", "--out", "out", "--dry-run", "--json", where=home).out)
        assert plain["cached"] == int(last)
        assert sum(plain["computed"].values()) == int(first)
        assert sorted(path for path in home.rglob("*")) == before

    def test_as_json_the_same_command_prints_what_it_wrote(self, ran: tuple[Path, Told]) -> None:
        home, told = ran
        words = ["run", "plans/plan.toml", "--out", "out", "--workers", "0", "--fail-on", "protection<0.5"]
        again = redteam(*words, "--json", "--quiet", where=home)
        assert (again.code, again.err) == (told.code, "")
        assert again.out == (home / "out" / "results.json").read_text()

    def test_a_file_that_the_shell_names_is_read_from_where_the_user_stands(self, ran: tuple[Path, Told]) -> None:
        home, _ = ran
        (home / "here.py").write_text(ATTACK.format(name="here"))
        words = ["run", "plans/plan.toml", "--out", "out", "--dry-run"]
        assert redteam(*words, "--attack", "here.py@here", where=home).code == 0
        assert redteam(*words, "--attack", "plans/beside.py@beside", where=home).code == 0
        lost = redteam(*words, "--attack", "beside.py@beside", where=home)
        assert lost.code == 2
        assert "Cannot read the plugin file" in lost.err


class TestDryRun:
    def test_writes_nothing(self, tmp_path: Path) -> None:
        plan = planned(tmp_path / "plans")
        told = redteam("run", plan, "--dry-run", where=tmp_path)
        assert told.code == 0
        assert "0 computations are cached" in told.out
        assert "Not loaded in this folder so far, so counted as missing: toy seed 0" in told.out
        assert {path.name for path in tmp_path.rglob("*")} == {"plans", "plan.toml", "toy.py", "beside.py"}

    def test_options_replace_what_the_plan_says(self, tmp_path: Path, seen: list[Plan]) -> None:
        plan = planned(tmp_path, keys=3, time_limit=5.0)
        options = ["--defense", "mergelock", "--defense", "none", "--attack", "hungarian", "--seeds", "2"]
        told = redteam("run", plan, "--dry-run", *options, "--time-limit", "7", "--threat", "leaked-key")
        assert told.code == 0
        (found,) = seen
        assert found.defenses == ("mergelock", "none")
        assert found.attacks == ("hungarian",)
        assert found.seeds == (0, 1)
        assert found.threats == ("leaked-key",)
        assert (found.keys, found.time_limit) == (3, 7.0)
        assert found.scenarios == ("toy.py@toy",)
        assert found.name == "plan"

    def test_seeds_are_named_or_counted(self, tmp_path: Path, seen: list[Plan]) -> None:
        assert redteam("run", planned(tmp_path), "--dry-run", "--seed", "3", "--seed", "1").code == 0
        assert seen[0].seeds == (3, 1)

    def test_more_keys_are_more_cells(self, tmp_path: Path) -> None:
        plan = planned(tmp_path)
        counts = [int(redteam("run", plan, "--dry-run", "--keys", str(n)).out.split()[0]) for n in (1, 2)]
        assert counts[1] == 2 * counts[0]

    def test_without_a_plan_it_is_quick(self, tmp_path: Path, seen: list[Plan]) -> None:
        assert redteam("run", "--dry-run", where=tmp_path).code == 0
        assert seen[0].name == "quick"


NAMES = {
    "attack": ("gauge-fitt", "There is no attack called 'gauge-fitt'; did you mean 'gauge-fit'?"),
    "defense": ("merglock", "did you mean 'mergelock'?"),
    "merger": ("task-arith", "did you mean 'task-arithmetic'?"),
    "scenario": ("digit", "did you mean 'digits'?"),
    "threat": ("weights", "did you mean 'weights-only'?"),
}
PLANS = {
    "attacks = [": "is not TOML",
    "attacks = 'graft'": "attacks",
    "atacks = ['graft']": "has an entry 'atacks' that means nothing",
    "seeds = 0": "seeds",
    "keys = 'two'": "keys",
    "name = 'a/b'": "name",
    "threats = []": "threats",
    "attacks = ['graft:drift=9']": "drift of graft must lie in [0, 2], got 9",
    "attacks = ['missing.py@x']": "Cannot read the plugin file 'missing.py'",
}


class TestRefusals:
    """One sentence and exit code 2, before anything runs."""

    @pytest.fixture(autouse=True)
    def nothing_runs(self, monkeypatch: pytest.MonkeyPatch) -> None:
        def ran(*_: object, **__: object) -> None:
            raise AssertionError("a scenario was loaded")

        monkeypatch.setattr(evaluation, "load_scenarios", ran)

    @pytest.fixture
    def refused(self, tmp_path: Path) -> Callable[..., str]:
        plan = planned(tmp_path / "plans")

        def sentence(*words: str | Path, plan: Path | str = plan) -> str:
            told = redteam("run", plan, *words, where=tmp_path)
            assert (told.code, told.out) == (2, "")
            *_, error = told.err.splitlines()
            assert error.startswith("Error: ")
            assert len(told.err.splitlines()) <= 2, "a sentence, after the line that says what is being read"
            return error

        return sentence

    @pytest.mark.parametrize("option", NAMES)
    def test_unknown_names(self, refused: Callable[..., str], option: str) -> None:
        name, sentence = NAMES[option]
        assert sentence in refused(f"--{option}", name)

    @pytest.mark.parametrize("text", PLANS)
    def test_malformed_plans(self, refused: Callable[..., str], tmp_path: Path, text: str) -> None:
        (tmp_path / "bad.toml").write_text(text)
        assert PLANS[text] in refused(plan="bad.toml")

    def test_plans_that_are_not_there(self, refused: Callable[..., str]) -> None:
        assert "did you mean 'quick'?" in refused(plan="quik")
        assert "cannot be read (No such file or directory)" in refused(plan="nowhere.toml")

    @pytest.mark.parametrize("place", ["file/out", "file", "/proc/none/out"])
    def test_folders_that_cannot_be_written(self, refused: Callable[..., str], tmp_path: Path, place: str) -> None:
        (tmp_path / "file").write_text("in the way")
        assert "cannot be written" in refused("--out", place)

    @pytest.mark.parametrize("place", ["file/r.md", "folder.md", "/proc/none/r.json"])
    def test_reports_that_cannot_be_written(self, refused: Callable[..., str], tmp_path: Path, place: str) -> None:
        (tmp_path / "file").write_text("in the way")
        (tmp_path / "folder.md").mkdir()
        assert f"{place} cannot be written" in refused("-o", place, "--out", "out")
        assert not (tmp_path / "out").exists()

    @pytest.mark.parametrize("name", ["r.pdf", "r", ".md", "r.xml", ".junit.xml", "r.md.txt"])
    def test_reports_of_unknown_kinds(self, refused: Callable[..., str], tmp_path: Path, name: str) -> None:
        assert "must end in one of .csv, .html, .json, .junit.xml, .leaderboard.md, .md" in refused(
            "-o", name, "--out", "out"
        )
        assert not (tmp_path / "out").exists()

    @pytest.mark.parametrize("text", ["theft", "theft>=half", "thief>=0.5", "theft=>0.5"])
    def test_gates_that_cannot_be_read(self, refused: Callable[..., str], tmp_path: Path, text: str) -> None:
        assert f"Cannot read the gate '{text}'" in refused("--fail-on", text, "--out", "out")
        assert not (tmp_path / "out").exists()

    def test_a_folder_in_use(self, refused: Callable[..., str], tmp_path: Path) -> None:
        (tmp_path / "out").mkdir()
        with evaluation.alone_in(tmp_path / "out"):
            assert "Another run is writing to out" in refused("--out", "out")

    @pytest.mark.parametrize("text", ["0/3", "4/3", "3"])
    def test_no_share(self, refused: Callable[..., str], text: str) -> None:
        assert f"--shard {text} cannot be used; expected I/N with I from 1 to N" in refused("--shard", text)

    def test_ray_without_workers(self, refused: Callable[..., str]) -> None:
        assert "--workers 0 leaves it none" in refused("--engine", "ray", "--workers", "0")

    def test_ray_that_is_not_installed(self, refused: Callable[..., str], monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setitem(sys.modules, "ray", None)
        assert "pip install 'merge-redteam[ray]'" in refused("--engine", "ray")

    @pytest.mark.parametrize("words", [("--workers", "-1"), ("--keys", "0"), ("--seeds", "x"), ("--time-limit", "0")])
    def test_numbers_out_of_range_are_misuse(self, tmp_path: Path, words: tuple[str, str]) -> None:
        told = redteam("run", planned(tmp_path), *words)
        assert told.code == 2
        assert words[0] in told.err


def test_all_cores_that_this_process_may_use() -> None:
    from redteam.cores import cores

    assert 1 <= cores() <= (os.cpu_count() or 1)
