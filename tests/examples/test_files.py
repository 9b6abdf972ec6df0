"""Blocks that are files of other kinds: what such files are written for reads them, and knows what they name."""

from __future__ import annotations

import re
import tomllib
from importlib import import_module
from pathlib import Path
from typing import Any

import pytest
import yaml
from redteam_scenarios.folder.schema import Plan as Scenario

from redteam.errors import BadInput
from redteam.evaluation.gauntlet import Gauntlet
from redteam.evaluation.plan import Plan, require_names
from redteam.plugins.registry import MERGERS
from tests.examples.listed import PAGES, blocks
from tests.pages import ROOT

TOML = [pytest.param(name, block.text, id=f"{name}-{block.text.splitlines()[0]}") for name, block in blocks("toml")]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
THEIRS = {"my_package", "our_package"}
"""Packages that are the reader's."""


@pytest.mark.parametrize(("name", "text"), TOML)
def test_toml_is_read_by_what_it_is_for(name: str, text: str, tmp_path: Path) -> None:
    file = tmp_path / "example.toml"
    file.write_text(text, encoding="utf-8")
    given = tomllib.loads(text)
    if "project" in given:
        entries(given["project"]["entry-points"])
    elif {"base", "tasks"} & set(given):
        scenario(file, given)
    elif set(given) == {"attacks"}:
        assert Gauntlet.read("ours-1", file).kind == "attacks"
    else:
        assert Plan.of(given).scenarios
        for product in (given, *given.get("also", ())):
            require_names({key: told for key, told in product.items() if told != ["mine.toml"]}, tmp_path)


def entries(groups: dict[str, dict[str, str]]) -> None:
    """Groups are among those of this program, and what lies in its packages can be imported."""
    assert set(groups) <= set(PROJECT["entry-points"])
    for group, named in groups.items():
        for name, value in named.items():
            module, _, attribute = value.partition(":")
            assert attribute
            if module.partition(".")[0] not in THEIRS:
                assert PROJECT["entry-points"][group][name] == value
                assert hasattr(import_module(module), attribute)


def scenario(file: Path, given: dict[str, Any]) -> None:
    """A scenario's file, or a part of one, which is completed first."""
    head = [] if "base" in given else ['base = "base"']
    head += [] if {"victim", "victims"} & set(given) else [f'victim = "{next(iter(given["tasks"]))}"']
    rest = [f'[tasks.{name}]\nmodel = "{name}"\ndata = "{name}.csv"' for name in ("one", "two")]
    file.write_text("\n".join([*head, file.read_text(encoding="utf-8"), *rest]), encoding="utf-8")
    assert set(given.get("tasks", ())) <= set(Scenario.read(file).tasks)


def test_a_key_or_a_name_that_there_is_not_is_noticed(tmp_path: Path) -> None:
    for text in ("seads = 2", 'attacks = ["gauge-fut"]\nseeds = 1', '[tasks.own]\nmodel = "own"\ndeta = "own.csv"'):
        with pytest.raises(BadInput, match=r"seads|gauge-fut|deta"):
            test_toml_is_read_by_what_it_is_for("", text, tmp_path)


@pytest.mark.parametrize("name", dict.fromkeys(name for name, _ in blocks("yaml")))
def test_yaml_names_what_there_is(name: str) -> None:
    """Those of pipelines are held against the action and the template in tests/test_pipeline.py."""
    for text in PAGES[name].fenced("yaml"):
        given = yaml.safe_load(text)
        if "merge_method" in given:
            assert given["merge_method"].replace("_", "-") in MERGERS.names
            asked = "\n".join(PAGES[name].fenced("sh"))
            assert f"--base {given['base_model']} " in asked
            assert all(f"--expert {model['model']} " in asked for model in given["models"])
        else:
            assert name == "docs/pipeline.md"


def test_the_files_of_a_run_are_there() -> None:
    (tree,) = (block.text for block in PAGES["docs/how-a-run-works.md"].blocks if block.text.startswith("plan.py"))
    named = re.findall(r"\b\w+(?:\.py|/)", tree)
    assert len(named) > 25
    home = ROOT / "redteam" / "evaluation"
    files = {path.name if path.is_file() else f"{path.name}/" for path in home.rglob("*")}
    assert [name for name in named if name not in files] == []
