from __future__ import annotations

import json
import sys

import pytest

from redteam.cli.list_ import list_, listed
from redteam.errors import UnknownName
from redteam.plugins.registry import REGISTRIES
from redteam.plugins.shipped import KINDS


def test_every_kind_is_listed() -> None:
    kinds = [one.kind for one in listed()]
    assert set(kinds) == {*REGISTRIES, *KINDS, "threat"}
    assert "quick" in {one.name for one in listed("plans")}
    assert "gauntlet-1" in {one.name for one in listed("gauntlets")}


@pytest.mark.parametrize("kind", [*REGISTRIES, *KINDS, "threat"])
def test_singular_and_plural_name_a_kind(kind: str) -> None:
    assert listed(kind) == listed(f"{kind}s") == listed(kind.upper()) == tuple(x for x in listed() if x.kind == kind)


def test_an_unknown_kind() -> None:
    with pytest.raises(UnknownName, match="did you mean 'attack'"):
        listed("atack")


def test_scripts_get_tabs_or_json(capsys: pytest.CaptureFixture[str]) -> None:
    list_("attack")
    lines = capsys.readouterr().out.splitlines()
    assert [line.split("\t")[1] for line in lines] == list(REGISTRIES["attack"])
    assert all(line.count("\t") == 3 for line in lines)
    list_("attack", as_json=True)
    rows = json.loads(capsys.readouterr().out)
    assert [list(row.values()) for row in rows] == [line.split("\t") for line in lines]


def test_a_terminal_gets_a_table(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys.stdout, "isatty", lambda: True)
    list_("attack")
    out = capsys.readouterr().out
    assert "\t" not in out
    assert all(name in out for name in REGISTRIES["attack"])
