"""`redteam submit`: a finished run as an archive, and leaderboards of several."""

from __future__ import annotations

import contextlib
import io
import json
import shutil
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from redteam import archive
from redteam.cli.main import main
from redteam.evaluation.results import Results
from redteam.evaluation.submission import comparable

TOY = Path(__file__).parent.parent / "evaluation" / "toy.py"
DEFENSE = """
from helping import strength
from redteam.plugins.contracts import defense


@defense("{name}", exact=True, keyed=False)
def {name}(view):
    return view.victim
"""


@dataclass(frozen=True)
class Told:
    code: int
    out: str
    err: str


def redteam(*words: str | Path, where: Path) -> Told:
    out, err = io.StringIO(), io.StringIO()
    quiet = contextlib.redirect_stdout(out), contextlib.redirect_stderr(err)
    with quiet[0], quiet[1], contextlib.chdir(where), pytest.raises(SystemExit) as left:
        main([str(word) for word in words])
    return Told(int(left.value.code or 0), out.getvalue(), err.getvalue())


def ran(home: Path, name: str) -> Path:
    """A small run whose scenario and defense are in files."""
    home.mkdir(parents=True)
    shutil.copy(TOY, home)
    (home / f"{name}.py").write_text(DEFENSE.format(name=name))
    (home / "helping.py").write_text("strength = 1\n")
    plan = {"scenarios": ["toy.py@toy"], "defenses": [f"{name}.py@{name}"], "mergers": ["task-arithmetic"]}
    (home / "plan.toml").write_text("".join(f"{key} = {json.dumps(value)}\n" for key, value in plan.items()))
    told = redteam("run", home / "plan.toml", "--out", home / "run", "--workers", "0", where=home)
    assert (home / "run/results.json").exists(), told.err
    return home / "run"


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    home = tmp_path_factory.mktemp("submissions")
    return ran(home / "a", "one"), ran(home / "b", "other")


@pytest.fixture
def copied(runs: tuple[Path, Path]) -> Iterator[Path]:
    """A run that a test may damage; what it changes is put back."""
    home = runs[0].parent
    held = {file: file.read_bytes() for file in home.rglob("*") if file.is_file()}
    yield runs[0]
    for file, content in held.items():
        file.write_bytes(content)


def test_packs_results_plan_and_sources_and_no_path(runs: tuple[Path, Path], tmp_path: Path) -> None:
    told = redteam("submit", runs[0], where=tmp_path)
    assert (told.code, told.err) == (0, "")
    held = archive.read_archive(tmp_path / "run.redteam.tar.gz")
    home = runs[0].parent
    sources = {f"files/0/{name}": (home / name).read_bytes() for name in ("one.py", "helping.py", "toy.py")}
    assert {name: content for name, content in held.items() if name.startswith("files/")} == sources
    for name, content in held.items():
        assert str(home.parent).encode() not in content, name
    assert "redteam run" not in held["results.json"].decode() or "/" not in json.loads(held["results.json"])["command"]
    plan = json.loads(held["plan.json"])
    assert plan["plan"]["defenses"] == ["files/0/one.py@one"] == json.loads(held["results.json"])["plan"]["defenses"]
    assert set(plan["files"]) == {"files/0/one.py", "files/0/toy.py"}
    assert plan["scenarios"]["toy seed 0"] == Results.read(runs[0]).grounds[0].digest
    assert f"digest {archive.digest(held)}" in told.out
    as_json = json.loads(redteam("submit", runs[0], "--out", "again.tar.gz", "--json", where=tmp_path).out)
    assert as_json == {
        "archive": "again.tar.gz",
        "bytes": (tmp_path / "run.redteam.tar.gz").stat().st_size,
        "digest": archive.digest(held),
        "members": {name: len(content) for name, content in held.items() if name != archive.MANIFEST},
    }


def test_plans_are_the_same_wherever_their_files_lie() -> None:
    folder = {"name": "x", "defenses": ["none", "a.py@a:share=0.5+rotation"], "also": [{"scenarios": ["deep/b.toml"]}]}
    packed: dict[str, Any] = {"name": "x", "defenses": ["none", "files/0/a.py@a:share=0.5+rotation"]}
    packed["also"] = [{"scenarios": ["files/1/b.toml"]}]
    one, other = comparable(folder, packed)
    assert one == other
    assert comparable(folder, folder) == [folder, folder]
    one, other = comparable(folder, {**packed, "defenses": ["none", "files/0/a.py@a:share=0.6+rotation"]})
    assert one["defenses"] != other["defenses"]


def test_verify_and_diff_take_archives(runs: tuple[Path, Path], copied: Path, tmp_path: Path) -> None:
    assert redteam("submit", runs[0], "--out", "x.tar.gz", where=tmp_path).code == 0
    told = redteam("verify", "x.tar.gz", where=tmp_path)
    assert (told.code, told.err) == (0, "")
    assert "agrees       plan" in told.out
    told = redteam("diff", "x.tar.gz", runs[0], where=tmp_path)
    assert (told.code, "The plans differ" in told.out) == (0, False)
    announced = json.loads((copied / "plan.json").read_text())
    (copied / "plan.json").write_text(json.dumps({**announced, "thresholds_digest": "0" * 64}))
    assert redteam("submit", copied, "--out", "y.tar.gz", where=tmp_path).code == 0
    told = redteam("verify", "y.tar.gz", where=tmp_path)
    assert (told.code, "the limit digest" in told.out) == (1, True)


def test_the_same_run_gives_the_same_bytes(runs: tuple[Path, Path], tmp_path: Path) -> None:
    for name in ("x.tar.gz", "y.tar.gz"):
        assert redteam("submit", runs[0], "--out", name, where=tmp_path).code == 0
    assert (tmp_path / "x.tar.gz").read_bytes() == (tmp_path / "y.tar.gz").read_bytes()
    told = redteam("submit", runs[0], "--out", "x.tar.gz", where=tmp_path)
    assert (told.code, "x.tar.gz exists already" in told.err) == (2, True)
    assert redteam("submit", runs[0], "--out", "x.tar.gz", "--force", where=tmp_path).code == 0


def test_a_leaderboard_of_archives_is_that_of_the_runs(runs: tuple[Path, Path], tmp_path: Path) -> None:
    for name, run in zip(("x.tar.gz", "y.tar.gz"), runs, strict=True):
        assert redteam("submit", run, "--out", name, where=tmp_path).code == 0
    codes = [
        redteam("report", *words, where=tmp_path).code
        for words in (
            ("x.tar.gz", "y.tar.gz", "-o", "sent.leaderboard.md"),
            (*runs, "-o", "here.leaderboard.md"),
        )
    ]
    assert codes[0] == codes[1]
    board = (tmp_path / "sent.leaderboard.md").read_text()
    assert "# Leaderboard: plan `plan`" in board
    assert "| `one` |" in board
    assert "| `other` |" in board
    assert board == (tmp_path / "here.leaderboard.md").read_text()


def test_an_unpacked_archive_is_a_run_whose_verdicts_can_be_explained(runs: tuple[Path, Path], tmp_path: Path) -> None:
    redteam("submit", runs[0], "--out", "x.tar.gz", where=tmp_path)
    archive.unpack(tmp_path / "x.tar.gz", tmp_path / "unpacked")
    whole = redteam("show", runs[0], "--why", "one", where=tmp_path)
    assert whole.code == 0
    for place in ("x.tar.gz", "unpacked", "unpacked/results.json"):
        assert redteam("show", place, "--why", "one", where=tmp_path).out == whole.out
    shown = redteam("show", "unpacked/files/0/one.py@one", where=tmp_path)
    assert (shown.code, "defense" in shown.out) == (0, True)


def test_what_the_page_shows_runs_in_order(
    runs: tuple[Path, Path], tmp_path: Path, page: Callable[[str], Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    shown = page("docs/submissions.md")
    shutil.copytree(runs[0], tmp_path / "runs/mine")
    assert redteam("submit", runs[1], "--out", "yours.redteam.tar.gz", where=tmp_path).code == 0
    submit, report = (block.split()[1:] for block in shown.fenced("sh"))
    assert redteam(*submit, where=tmp_path).code == 0
    redteam(*report, where=tmp_path)
    assert (tmp_path / report[-1]).read_text().startswith("**Theft figures are lower bounds")
    monkeypatch.chdir(tmp_path)
    (unpacked,) = shown.fenced("python")
    exec(unpacked, {})
    held = {path.name for path in (tmp_path / "mine").iterdir()}
    assert {line.split("`")[1].split("/")[0] for line in shown.text.splitlines() if line.startswith("| `")} == held


def test_no_sentence_and_no_command_tells_where_anything_lay(copied: Path, tmp_path: Path) -> None:
    results = json.loads((copied / "results.json").read_text())
    results["cells"][0].update(status="error", reason="FileNotFoundError: '/home/me/a client/data.bin' (x.py, line 3)")
    results["untested"] = ["Nothing of /home/me/client/x.toml; 1/2 and org/model stay."]
    results["command"] = (
        "redteam run '/home/me/a client/plan.toml' --defense ~/client/l.py@lock+/home/me/m.py@x:at=0.5 "
        "--out=../client/run --mlflow-uri http://me:word@client/x"
    )
    (copied / "results.json").write_text(json.dumps(results))
    assert redteam("submit", copied, "--out", "x.tar.gz", where=tmp_path).code == 0
    told = json.loads(archive.read_archive(tmp_path / "x.tar.gz")["results.json"])
    assert told["cells"][0]["reason"] == "FileNotFoundError: 'data.bin' (x.py, line 3)"
    assert told["untested"] == ["Nothing of x.toml; 1/2 and org/model stay."]
    assert told["command"] == (
        "redteam run plan.toml --defense l.py@lock+m.py@x:at=0.5 --out=run --mlflow-uri 'http://…'"
    )


def refused(run: Path, where: Path) -> str:
    told = redteam("submit", run, where=where)
    assert told.code == 2
    assert list(where.iterdir()) == []
    return told.err


def test_a_source_that_was_edited_is_refused(copied: Path, tmp_path: Path) -> None:
    (copied.parent / "helping.py").write_text("strength = 2\n")
    assert "one.py, or what it imports from its folder, was edited after the run" in refused(copied, tmp_path)


def test_a_source_that_is_gone_is_refused(copied: Path, tmp_path: Path) -> None:
    (copied.parent / "one.py").unlink()
    assert "one.py, which the plan of" in refused(copied, tmp_path)


def test_a_key_that_calls_itself_a_source_is_refused(copied: Path, tmp_path: Path) -> None:
    """Nobody can run such a file; the folder says that somebody did."""
    from redteam.plugins.source import digest_over

    (copied.parent / "one.toml").write_bytes(bytes(range(200, 232)))
    announced = json.loads((copied / "plan.json").read_text())
    place = {"at": str(copied.parent / "one.toml"), "digest": digest_over({"one.toml": bytes(range(200, 232))})}
    (copied / "plan.json").write_text(json.dumps({**announced, "files": {"one.toml": place}}))
    assert "files/0/one.toml holds no text, as a key or weights would" in refused(copied, tmp_path)
    (copied.parent / "one.toml").unlink()


def test_results_of_another_plan_are_refused(copied: Path, tmp_path: Path) -> None:
    announced = json.loads((copied / "plan.json").read_text())
    announced["plan"]["keys"] = 7
    (copied / "plan.json").write_text(json.dumps(announced))
    assert "results of another plan than the one begun last" in refused(copied, tmp_path)


def test_a_folder_without_a_run_or_of_an_older_version_is_told(copied: Path, tmp_path: Path) -> None:
    assert "cannot be read (No such file or directory)" in refused(copied.parent, tmp_path)
    announced = json.loads((copied / "plan.json").read_text())
    del announced["files"]
    (copied / "plan.json").write_text(json.dumps(announced))
    assert "run the plan again, which computes only what is missing" in refused(copied, tmp_path)


def test_a_damaged_archive_is_one_sentence_in_report(tmp_path: Path) -> None:
    (tmp_path / "x.tar.gz").write_bytes(b"hello")
    told = redteam("report", "x.tar.gz", where=tmp_path)
    assert (told.code, told.out) == (2, "")
    assert told.err == "Error: x.tar.gz is damaged, or no archive of redteam submit; ask for it again.\n"
