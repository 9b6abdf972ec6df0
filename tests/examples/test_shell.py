"""Every line of every shell block: this program takes it and, where that takes no minutes, does what it says."""

from __future__ import annotations

import re
import shlex
import tomllib
from collections.abc import Callable
from contextlib import suppress
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest
import typer

from redteam.cli.main import COMMANDS
from redteam.errors import RedteamError
from tests.examples.conftest import TOY
from tests.examples.listed import ELSEWHERE, MINUTES, NOT_OURS, ONLY_PARSED, PAGES, bare, blocks, commands
from tests.pages import ROOT

ROOMY = f"{ROOT / 'tests' / 'search' / 'plugins.py'}@roomy"
WITH_COMMANDS = [name for name in PAGES if commands(name)]
FOLLOWED = [name for name in WITH_COMMANDS if name not in ELSEWHERE]


def words(line: str) -> list[str]:
    """What follows the program's name; dots stand for more of the same."""
    return shlex.split(line.replace("…", ""), comments=True)[1:]


def parse(name: str, *rest: str) -> None:
    """Reads a command's arguments and options as the shell would, and runs nothing.

    Raises:
        Typer's usage errors: If the command takes no such thing.
    """
    module, _, attribute = COMMANDS[name][0].partition(":")
    app = typer.Typer(add_completion=False)
    app.command(name)(getattr(__import__(module, fromlist=[attribute]), attribute))
    with suppress(RedteamError):  # of an option that reads a file which commands before it would have written
        typer.main.get_command(app).make_context(f"redteam {name}", list(rest))


@pytest.mark.parametrize("name", WITH_COMMANDS)
def test_the_program_takes_every_command(name: str) -> None:
    for line in commands(name):
        try:
            parse(*words(line))
        except Exception as error:
            pytest.fail(f"{line}\n{error}")


@pytest.mark.parametrize("line", ["redteam merge ties --bose base", "redteam merge", "redteam run --seeds many"])
def test_other_options_and_values_are_noticed(line: str) -> None:
    with pytest.raises(Exception, match=r"--bose|merger|many"):
        parse(*words(line))


@pytest.mark.parametrize("name", [name for name in FOLLOWED if name != "docs/is-this-lock-safe.md"])
def test_what_takes_seconds_runs(name: str, shell: Callable[..., Any], stand: Path) -> None:
    """In order; of runs the plan alone, with everything that it names."""
    for line in commands(name):
        asked = words(line)
        if bare(line) in ONLY_PARSED or asked[0] in ("check", "search"):
            continue
        if asked[0] == "run" and "--dry-run" not in asked:
            asked.append("--dry-run")
        if asked[0] == "verify":
            asked += ["--workers", "0"]
        told = shell(*asked)
        assert told.code == 0, line + told.out + told.err


@pytest.mark.slow
@pytest.mark.parametrize("name", MINUTES)
def test_what_takes_minutes_runs(name: str, shell: Callable[..., Any], stand: Path) -> None:
    """In order, on toys in this process."""
    for line in commands(name):
        asked = words(line)
        if asked[0] in ("run", "search"):
            asked += ["--workers", "0", "--scenario", ROOMY if "--defend" in asked else TOY]
        if asked[0] == "search":
            asked += ["--trials", "8", "--attack", "gauge-fit"] if "--defend" in asked else ["--trials", "4"]
        told = shell(*asked)
        assert told.code == 0, line + told.out + told.err


def test_what_other_programs_are_asked_for_is_there() -> None:
    others = {bare(line) for _, block in blocks("sh") for line in block.commands if not line.startswith("redteam ")}
    targets = re.findall(r"^(\w+):", (ROOT / "Makefile").read_text(encoding="utf-8"), re.MULTILINE)
    makes = {line for line in others if line.startswith("make ")}
    assert {line.split()[1] for line in makes} < set(targets)
    modules = {line for line in others if line.startswith("python -m ")}
    assert all(find_spec(line.split()[2]) for line in modules)
    assert others - makes - modules == set(NOT_OURS)
    extras = {extra for line in others for extra in re.findall(r"merge-redteam\[(\w+)\]", line)}
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    assert extras
    assert extras <= set(project["optional-dependencies"])
