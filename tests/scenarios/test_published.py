"""The scenarios `clip-8` and `glue`, from a server on this machine that has tiny repositories under their names."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from redteam_scenarios.published.files import plan_of

from redteam.evaluation.plan import find_plan
from tests.scenarios import tiny_hub
from tests.test_hub import Hub, model, pointed, server  # noqa: F401

Shell = Callable[..., Any]
PLANS = {"clip-8": "eurosat", "glue": "mnli"}


@pytest.fixture(autouse=True)
def _here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("REDTEAM_CACHE", str(tmp_path / "kept"))
    monkeypatch.chdir(tmp_path)


@pytest.mark.parametrize("name", PLANS)
def test_without_the_hub_a_sentence_says_what_is_missing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, shell: Shell, name: str
) -> None:
    pointed(monkeypatch, "http://127.0.0.1:9", tmp_path / "cache")
    plan = plan_of(name)
    named = [plan.base, *(entry.model for entry in plan.tasks.values())]
    for words in (("check", name), ("run", name, "--out", "run", "--workers", "0")):
        told = shell(*words)
        assert told.code == 2, told.out + told.err
        (sentence,) = [line for line in told.err.splitlines() if line.startswith("Error")]
        assert any(f"{one} " in sentence for one in named)
        assert "is not in the hub's cache" in sentence
    assert not list(tmp_path.glob("kept/folder/*"))


@pytest.mark.parametrize("name", PLANS)
def test_what_is_in_them_is_said_without_the_hub(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, shell: Shell, name: str
) -> None:
    pointed(monkeypatch, "http://127.0.0.1:9", tmp_path / "cache")
    told = shell("show", name)
    assert told.code == 0, told.err
    plan = plan_of(name)
    assert all(text in told.out for text in (plan.base, *(f"{e.model}; data {e.data}" for e in plan.tasks.values())))
    assert find_plan(name)[0].scenarios == (name,)


def test_the_larger_network_has_the_same_tasks() -> None:
    small, large = plan_of("clip-8"), plan_of("clip-8-large")
    here = {name: entry.model.replace("base-patch32", "large-patch14") for name, entry in small.tasks.items()}
    assert here == {name: entry.model for name, entry in large.tasks.items()}
    for one, other in zip(small.tasks.values(), large.tasks.values(), strict=True):
        assert one.model_dump(exclude={"model"}) == other.model_dump(exclude={"model"})


@pytest.mark.slow
@pytest.mark.parametrize("name", PLANS)
def test_the_plan_runs_to_a_verdict_on_what_is_fetched_by_name(
    tmp_path: Path,
    server: Hub,  # noqa: F811
    shell: Shell,
    name: str,
) -> None:
    plan = plan_of(name)
    repositories = tiny_hub.of_glue(tmp_path / "hub") if name == "glue" else tiny_hub.of_clip(tmp_path / "hub", plan)
    server.repositories |= repositories
    server.revisions.add("refs/pr/15")
    told = shell("check", name)
    assert told.code == 0, told.out + told.err
    assert all(f"'{task}': " in told.out for task in plan.tasks)
    told = shell("run", name, "--workers", "0", "--out", "run")
    assert told.code == 0, told.out + told.err
    (verdict,) = [
        v for v in json.loads(Path("run/results.json").read_text())["verdicts"] if v["defense"] == "mergelock"
    ]
    assert verdict["verdict"] == "BROKEN"
    assert verdict["theft"]["low"] > 0.5
    assert not any(path.endswith((".bin", ".py")) for path in server.asked)
