"""Kinds of tasks of a scenario that is a file: which there are, and what is said of others."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any, get_args

from redteam_scenarios.folder.schema import Kind, Plan

from tests.scenarios.own_kinds import refused, write


def test_tasks_of_a_harness_are_told_what_to_do(tmp_path: Path) -> None:
    write(tmp_path, 'kind = "lm-eval:arc_easy"')
    refused(tmp_path, "'lm-eval:arc_easy' is no kind but a task with its data; write data = \"lm-eval:arc_easy\"")


def test_the_page_names_every_kind_and_shows_entries_that_are_known(page: Callable[[str], Any], tmp_path: Path) -> None:
    shown = page("docs/own-model.md")
    text = Path("docs/own-model.md").read_text(encoding="utf-8")
    lines = [line for line in text.splitlines() if line.startswith("| `") and " | " in line]
    assert {line.split("`")[1] for line in lines} >= set(get_args(Kind))
    parts = [block for block in shown.fenced("toml") if block.startswith("[tasks") and "train" not in block]
    assert len(parts) == 5
    file = tmp_path / "own.toml"
    file.write_text('base = "base"\nvictim = "topic"\n' + "\n".join(parts), encoding="utf-8")
    plan = Plan.read(file)
    assert plan.tasks["search"].kind == "retrieval"
    assert plan.tasks["sums"].pattern == "#### (-?[0-9]+)"
    (turning,) = (block for block in shown.fenced("toml") if 'victims = "each"' in block)
    file.write_text(f"{turning}\n" + "\n".join(parts), encoding="utf-8")
    assert Plan.read(file).turns == tuple(plan.tasks)
