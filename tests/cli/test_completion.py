"""What a shell offers when a word is completed: names of plugins, read without importing them."""

from __future__ import annotations

import json
import subprocess
import sys

import pytest

SCRIPT = """
import contextlib, io, json, os, sys
from redteam.cli.main import main
told = []
os.environ["_REDTEAM_COMPLETE"] = "complete_bash"
for line, at in json.load(sys.stdin):
    os.environ.update(COMP_WORDS=line, COMP_CWORD=str(at))
    try:
        with contextlib.redirect_stdout(io.StringIO()) as out:
            main([])
    except SystemExit:
        told.append(out.getvalue().split())
json.dump([told, [name for name in ("torch", "transformers", "pydantic") if name in sys.modules]], sys.stdout)
"""
OFFERED = {
    "pro": {"protect"},
    "protect mergel": {"mergelock"},
    "protect none+mergel": {"none+mergelock"},
    "attack key-h": {"key-holder"},
    "attack gauge-fit model --defense mergel": {"mergelock"},
    "merge tie": {"ties"},
    "run qui": {"quick"},
    "run --scenario digi": {"digits"},
    "run --attack gauntlet-1": {"gauntlet-1"},
    "run --merger slerp": {"slerp"},
    "run --threat few": {"few-shot"},
    "search --threat few": {"few-shot"},
    "show junit": {"junit.xml"},
    "show weights": {"weights-only"},
    "check mergel": {"mergelock"},
    "list thr": {"threat"},
    "new sce": {"scenario"},
    "audit --arch": {"--architecture"},
    "run --attack no-such-attack": set[str](),
}


@pytest.fixture(scope="module")
def offered() -> tuple[dict[str, set[str]], list[str]]:
    """What is offered for each line, and what was imported for all of them."""
    asked = json.dumps([(f"redteam {line}", len(line.split())) for line in OFFERED])
    ran = subprocess.run([sys.executable, "-c", SCRIPT], input=asked, capture_output=True, text=True, check=True)
    told, slow = json.loads(ran.stdout)
    return dict(zip(OFFERED, map(set, told), strict=True)), slow


@pytest.mark.parametrize("line", OFFERED)
def test_a_word_is_completed(offered: tuple[dict[str, set[str]], list[str]], line: str) -> None:
    assert offered[0][line] == OFFERED[line]


def test_nothing_slow_is_imported_for_that(offered: tuple[dict[str, set[str]], list[str]]) -> None:
    assert offered[1] == []
