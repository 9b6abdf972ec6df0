"""The engine names no plugin: defaults come from the plan that ships, hints from what plugins say of themselves."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

import redteam
from redteam.errors import PluginFault
from redteam.evaluation.plan import Plan
from redteam.plugins import shipped
from redteam.plugins.contracts import DefenseSpec
from redteam.plugins.reference import Reference
from redteam.plugins.registry import DEFENSES, MERGERS, REGISTRIES, Registry
from redteam.symmetry.groups import GROUPS

ENGINE = Path(redteam.__file__).parent
KINDS = ("scenario", "defense", "attack", "merger")


def test_no_string_names_a_plugin() -> None:
    installed = {name for kind in KINDS for name in REGISTRIES[kind]}
    gauntlets = {one.name for one in shipped.shipped("gauntlet")}
    # Names of one word are words of the language as well, and defenses are called as the engine's groups are.
    telling = {name for name in installed | gauntlets if "-" in name} - {*GROUPS}
    anywhere = re.compile(rf"(?<![\w-])({'|'.join(sorted(telling))})(?![\w-])")
    whole = {*REGISTRIES["scenario"], shipped.DEFAULT_PLAN}
    found = {
        f"{file.relative_to(ENGINE)}: {text}"
        for file in ENGINE.rglob("*.py")
        for text in strings(ast.parse(file.read_text(encoding="utf-8")))
        if text in whole or anywhere.search(text)
    }
    assert len(telling) > 20
    assert found == {f"plugins/shipped.py: {shipped.DEFAULT_PLAN}"}


def strings(tree: ast.AST) -> Iterator[str]:
    """All of them but docstrings."""
    docs = {id(node.value) for node in ast.walk(tree) if isinstance(node, ast.Expr)}
    for node in ast.walk(tree):
        if isinstance(node, ast.Constant) and isinstance(node.value, str) and id(node) not in docs:
            yield node.value


def test_what_a_plan_leaves_out_is_as_the_default_plan_says(monkeypatch: pytest.MonkeyPatch) -> None:
    said = Plan.read(shipped.shipped_file("plan", shipped.DEFAULT_PLAN))
    left = Plan.of({})
    assert (left.scenarios, left.mergers) == (said.scenarios, said.mergers)
    for text in left.defenses:
        spec = DEFENSES.load(text).spec
        assert spec.exact
        assert not spec.protects
    monkeypatch.setattr("redteam.evaluation.plan.defaults", lambda: {"scenarios": ["mine"], "mergers": ["ours"]})
    assert (Plan.of({}).scenarios, Plan.of({}).mergers) == (("mine",), ("ours",))
    assert Plan.of({"scenarios": ["other"]}).scenarios == ("other",)


def test_what_cannot_be_imported_is_no_hint(monkeypatch: pytest.MonkeyPatch) -> None:
    without = MERGERS.names_where(lambda spec: not spec.needs_base)
    assert without
    assert all(not MERGERS.load(name).spec.needs_base for name in without)
    find = Registry.find

    def failing(self: Registry[DefenseSpec], reference: Reference, **rest: object) -> object:
        if reference.name == without[0]:
            raise PluginFault("it cannot be imported.")
        return find(self, reference, **rest)  # type: ignore[arg-type]

    monkeypatch.setattr(Registry, "find", failing)
    assert MERGERS.names_where(lambda spec: not spec.needs_base) == without[1:]
