"""docs/doctor.md: its example gives what it shows, its table has every finding, its limits are those in force."""

from __future__ import annotations

import re
import shlex
from collections.abc import Callable
from pathlib import Path
from typing import Any, get_args

import pytest

from redteam.doctor.findings import Kind
from redteam.doctor.gauges import COLUMNS, LAYERS
from redteam.doctor.numbers import LONGER, STANDS_OUT
from redteam.doctor.tokens import FEW
from redteam.doctor.weighed import FAR


@pytest.fixture
def shown(page: Callable[[str], Any]) -> Any:
    return page("docs/doctor.md")


def test_the_example_gives_what_it_shows(
    shown: Any, shell: Callable[..., Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Figures aside, which depend on the key."""
    monkeypatch.chdir(tmp_path)
    make, ask = shown.fenced("python")
    exec(compile(make, "doctor.md", "exec"), {})
    told = [shell(*shlex.split(line)[1:]) for block in shown.fenced("sh") for line in block.strip().splitlines()]
    assert [one.code for one in told] == [0, 1, 0, 0], [one.err for one in told]
    found, nothing = shown.fenced("text")
    assert told[1].out.startswith("DAMAGES")
    assert _blurred(found) == _blurred("\n".join(told[1].out.splitlines()[:4]))
    assert told[3].out.splitlines()[-1] == nothing.strip()
    exec(compile(ask, "doctor.md", "exec"), {})


def test_every_finding_has_a_row(shown: Any) -> None:
    rows = re.findall(r"^\| `([\w-]+)` \| (\w+) \| ", shown.text, re.MULTILINE)
    assert sorted(kind for kind, _ in rows) == sorted(get_args(Kind))
    assert {severity for _, severity in rows} == {"stops", "damages", "note"}


def test_the_limits_are_those_in_force(shown: Any) -> None:
    text = " ".join(shown.text.split())
    for sentence in (
        f"a note up to {FEW:.0%} of them".replace("%", " %"),
        f"less than {FAR:g} of its norm",
        f"at most {LAYERS} layers",
        f"by {COLUMNS} of their columns",
        f"a task vector {LONGER:g} times as long",
        f"moved {STANDS_OUT:g} times as far",
    ):
        assert sentence in text, sentence


def _blurred(text: str) -> str:
    return re.sub(r"\b\d+(\.\d+)? times", "# times", text.strip())
