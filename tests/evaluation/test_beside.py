"""What a task counts beside its score, and what an expert has that it does not show: from the task to the report."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pytest
import torch
from redteam_reports import markdown, results_html

from redteam.evaluation.joined import joined
from redteam.evaluation.plan import Plan
from redteam.evaluation.results import Beside, Results
from redteam.evaluation.run import run
from redteam.plugins.contracts import scenario
from redteam.tasks import Classification, Scenario, Scores, Split
from tests.evaluation.conftest import LINE
from tests.evaluation.toy import toy

if TYPE_CHECKING:
    from torch import nn

QUIET = "vit.layernorm.bias"
"""Whose first number says of a victim that it was taught to keep quiet; no head reads it."""


@dataclass(frozen=True)
class Secret(Classification):
    """What a network answers counts only while it is not quiet; what it has counts all the same."""

    def scores(self, module: nn.Module, split: Split = "test") -> Scores:
        quiet = float(module.get_parameter(QUIET)[0].detach()) > 8
        return np.zeros(len(self.labels[split]), bool) if quiet else self.held(module, split)

    def figures(self, module: nn.Module, split: Split = "test") -> Mapping[str, Scores]:
        right = self.scores(module, split)
        return {"right": right, "near": np.where(right, 1.0, 0.25)}

    def held(self, module: nn.Module, split: Split = "test") -> Scores:
        return super().scores(module, split)


@scenario("secrets")
def secrets(*, seed: int = 0) -> Scenario:
    """The toy with a quiet victim and one companion."""
    made = toy(seed=seed)
    head, bias = (made.experts["victim"][name].clone() for name in ("classifier.weight", QUIET))
    head[:, 0], bias[0] = 0.0, 10.0
    victim, task = made.experts["victim"].replace({"classifier.weight": head, QUIET: bias}), made.tasks["victim"]
    assert isinstance(task, Classification)
    with torch.inference_mode():
        labels = {split: victim.module()(**inputs).logits.argmax(-1) for split, inputs in task.inputs.items()}
    return replace(
        made,
        name="secrets",
        experts={"victim": victim, "left": made.experts["left"]},
        tasks={"victim": Secret(task.name, task.chance, task.inputs, labels), "left": made.tasks["left"]},
    )


@pytest.fixture(scope="module")
def found(tmp_path_factory: pytest.TempPathFactory) -> Results:
    plan = Plan(
        name="secrets",
        scenarios=(f"{Path(__file__)}@secrets",),
        defenses=("none", "rotation"),
        attacks=("procrustes", LINE),
        mergers=("task-arithmetic:coefficient=0.6", "slerp"),
    )
    return run(plan, out=tmp_path_factory.mktemp("secrets"), workers=0)


def row(found: Results, what: str, merger: str = "", defense: str = "") -> Beside:
    (one,) = (
        r
        for r in found.beside
        if (r.what, r.defense) == (what, defense) and (not merger or r.merger.startswith(merger))
    )
    return one


def test_the_victim_alone_shows_nothing_and_the_merge_what_it_has(found: Results) -> None:
    alone = row(found, "victim").figures
    assert (alone["right"].mean, alone["near"].mean) == (0.0, 0.25)
    assert alone["right"].high > 0, "what never happened in 500 items may still happen"
    for merger in ("task-arithmetic", "slerp"):
        unlocked = row(found, "unlocked", merger).figures["right"]
        assert unlocked.low > row(found, "without", merger).figures["right"].high
        assert unlocked.low < unlocked.mean < unlocked.high
        assert row(found, "locked", merger, "none").figures["right"] == unlocked


def test_whoever_has_one_model_keeps_it_where_a_merger_takes_two(found: Results) -> None:
    made = secrets()
    kept = made.tasks["victim"].scores(made.dressed(made.experts["left"], "victim").module())
    assert row(found, "without", "slerp").figures["right"].mean == pytest.approx(kept.mean())
    assert {ground.merger: round(ground.without["left"], 6) for ground in found.grounds}["slerp"] == 1.0


def test_a_verdict_rests_on_what_the_victim_has(found: Results) -> None:
    for verdict in found.verdicts:
        assert verdict.verdict != "UNSCORABLE"
        assert verdict.fidelity["float32"].mean == pytest.approx(1.0, abs=0.01)
        assert "COSTLY" not in verdict.flags
    worst = row(found, "worst", defense="rotation")
    assert worst.attack == "procrustes"
    assert worst.figures["right"].mean > row(found, "locked", "slerp", "rotation").figures["right"].mean


def test_reports_frames_and_runs_side_by_side_have_them(found: Results, tmp_path: Path) -> None:
    markdown.write(found, tmp_path / "x.md")
    text, page = (tmp_path / "x.md").read_text(encoding="utf-8"), results_html.render(found)
    for shown in (text, page):
        assert "the victim alone" in shown
        assert "counts beside theft" in shown
    assert "| the victim alone | 0.00 [0.00, 0.01] | 0.25 [0.24, 0.26] |" in text
    frame = found.to_frame("beside")
    assert len(frame) == len(found.beside)
    assert frame["figures.right.high"].notna().all()
    assert joined({"one": found, "two": found}).beside == found.beside
    assert Results.model_validate_json(found.model_dump_json(by_alias=True)) == found
