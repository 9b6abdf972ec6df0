"""How much commands print, and as what: `--json`, `--quiet`, `--verbose`, NO_COLOR."""

from __future__ import annotations

import contextlib
import io
import json
import os
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

from redteam.cli import main as cli
from redteam.cli.main import COMMANDS
from redteam.cli.progress import Progress
from redteam.terminal import Loudness, at_loudness, loudness, mention
from redteam.testing import toy_scenario

Shell = Callable[..., Any]
SILENT = {"new"}
"""Commands whose result is a file to go on with, not something that was found."""
UNMOVING = {"list", "show", "report", "submit", "new", "cache"}
"""Commands that take no time, so that there is no progress."""


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with a base and two experts."""
    scenario = toy_scenario("vit")
    scenario.base.save(tmp_path / "base")
    for name in ("left", "right"):
        scenario.experts[name].save(tmp_path / name)
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.mark.parametrize("command", COMMANDS)
def test_every_command_has_the_options_that_mean_something_to_it(shell: Shell, command: str) -> None:
    help_text = shell(command, "--help").out
    assert ("--json" in help_text) == (command not in SILENT)
    assert ("--quiet" in help_text) == (command not in UNMOVING)


LOUD = """
import os
from redteam.plugins.contracts import attack

print("a word of the file")
os.write(1, b"a word past Python\\n")


@attack("loud")
def loud(view):
    return view.protected
"""


def test_what_plugins_print_is_no_part_of_the_json(shell: Shell, tmp_path: Path) -> None:
    (tmp_path / "loud.py").write_text(LOUD)
    told = shell("show", f"{tmp_path}/loud.py@loud", "--json")
    assert [one["name"] for one in json.loads(told.out)] == [f"{tmp_path}/loud.py@loud"]
    assert "a word of the file" in told.err


def test_nor_is_what_is_written_past_python(tmp_path: Path) -> None:
    (tmp_path / "loud.py").write_text(LOUD)
    held = os.dup(1)
    with (tmp_path / "out").open("wb") as file:
        os.dup2(file.fileno(), 1)
    try:
        out = os.fdopen(1, "w", encoding="utf-8", closefd=False)
        with out, contextlib.redirect_stdout(out), pytest.raises(SystemExit):
            cli.main(["show", f"{tmp_path}/loud.py@loud", "--json"])
        os.write(1, b"\nafterwards")
    finally:
        os.dup2(held, 1)
        os.close(held)
    answer, _, rest = (tmp_path / "out").read_text().rpartition("\n")
    assert json.loads(answer)
    assert rest == "afterwards"


def test_a_shell_may_close_standard_output(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sys.stdout", None)
    with pytest.raises(SystemExit) as left:
        cli.main(["list", "--json"])
    assert not left.value.code


def test_what_writes_a_model_says_the_same_as_json(shell: Shell, here: Path) -> None:
    commands = {
        "locked": ("protect", "mergelock", "left", "--key", "key"),
        "fitted": ("attack", "gauge-fit", "locked", "--base", "base"),
        "merged": ("merge", "linear", "--base", "base", "--expert", "fitted", "--expert", "right"),
        "adapter": ("extract-lora", "left", "--base", "base", "--rank", "2"),
    }
    facts = {"locked": "defense", "fitted": "attack", "merged": "merger", "adapter": "rank"}
    for out, words in commands.items():
        told = shell(*words, "--out", out, "--json", "--quiet")
        assert told.code == 0, told.err
        assert told.err == "", "there is no progress"
        found = json.loads(told.out)
        assert set(found) == {"written", "facts", "sentences"}
        assert found["written"] == out
        assert facts[out] in found["facts"]
        again = shell(*words, "--out", out, "--force")
        assert _but_the_key(again.out.splitlines()) == _but_the_key(found["sentences"])
        assert re.search(r"^\[\d+/\d+\] ", again.err, re.MULTILINE), "there is progress"


def _but_the_key(sentences: list[str]) -> list[str]:
    """Without the sentence on the key, which is made the first time and found the second."""
    return [one for one in sentences if not one.startswith("The key is in key")]


def test_a_failure_leaves_standard_output_empty(shell: Shell, here: Path) -> None:
    told = shell("attack", "gauge-fit", "base", "--base", "base", "--out", "fitted", "--json")
    assert (told.code, told.out) == (2, "")


def test_a_description_and_a_diagnosis_are_printed_whole(shell: Shell, here: Path) -> None:
    audit = json.loads(shell("audit", "left", "--base", "base", "--json", "-q", "-o", "audit.json").out)
    assert audit == json.loads(Path("audit.json").read_text())
    found = json.loads(shell("doctor", "base", "left", "--json").out)
    assert [model["name"] for model in found["models"]] == ["left"]


def test_a_plugin_is_shown_as_plain_values(shell: Shell) -> None:
    (shown,) = json.loads(shell("show", "few-shot:samples=3", "--json").out)
    assert shown["kind"] == "threat"
    assert shown["settings"][0] == {
        "name": "samples",
        "type": "whole number",
        "required": False,
        "default": "64",
        "within": [1, 10**9],
    }
    kinds = {one["kind"] for name in ("quick", "gauntlet-1", "html", "ties") for one in _shown(shell, name)}
    assert kinds == {"plan", "gauntlet", "report", "merger"}


def _shown(shell: Shell, name: str) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = json.loads(shell("show", name, "--json").out)
    return found


class TestLoudness:
    def test_quiet_work_says_nothing(self, capsys: pytest.CaptureFixture[str]) -> None:
        console = Console(file=io.StringIO(), force_terminal=True)
        with at_loudness(Loudness.quiet), Progress(console) as progress:
            mention("Looking")
            progress.preparing("toy", 0)
            progress.settled("fit", "error", "it failed", 1, 2)
            progress.advanced(0, 3, "training")
        assert capsys.readouterr().err == ""
        assert console.file.getvalue() == ""  # type: ignore[attr-defined]

    def test_on_a_terminal_verbose_work_leaves_a_line_for_each_step(self) -> None:
        told = {}
        for wanted in (Loudness.normal, Loudness.verbose):
            console = Console(file=io.StringIO(), force_terminal=True, width=80)
            with at_loudness(wanted), Progress(console) as progress:
                progress.planned(2, 2, 0, "")
                progress.settled("fit on lock", "ok", "", 1, 2)
                progress.settled("fit on none", "error", "it failed", 2, 2)
                progress.finished(None)
            told[wanted] = console.file.getvalue()  # type: ignore[attr-defined]
        assert "[1/2] fit on lock" not in told[Loudness.normal]
        assert "[1/2] fit on lock" in told[Loudness.verbose]
        assert told[Loudness.verbose].count("it failed") == 1

    def test_it_ends_with_the_command(self, shell: Shell, here: Path) -> None:
        shell("audit", "left", "--base", "base", "--quiet")
        assert loudness() == Loudness.normal


class TestColours:
    def test_no_color_takes_them_off(self, monkeypatch: pytest.MonkeyPatch) -> None:
        coloured = re.compile(r"\x1b\[[0-9;]*(3[0-7]|38|9[0-7])[0-9;]*m")
        monkeypatch.setenv("TERM", "xterm-256color")
        monkeypatch.delenv("NO_COLOR", raising=False)
        assert coloured.search(self.drawn()), "there are colours to take off"
        monkeypatch.setenv("NO_COLOR", "1")
        assert not coloured.search(self.drawn())

    def test_elsewhere_nothing_but_text_is_printed(self, shell: Shell, here: Path) -> None:
        for words in (("list",), ("audit", "left", "--base", "base"), ("--help",)):
            told = shell(*words)
            assert "\x1b" not in told.out + told.err

    @staticmethod
    def drawn() -> str:
        console = Console(file=io.StringIO(), force_terminal=True, width=80)
        with Progress(console) as progress:
            progress.planned(4, 4, 1, "")
            progress.settled("fit on lock", "ok", "", 2, 4)
        return console.file.getvalue()  # type: ignore[attr-defined, no-any-return]
