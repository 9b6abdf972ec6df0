"""How the scenario behaves without protection and without attack: the figures that it must reach before any is run."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np
import torch

from redteam.checkpoint import Checkpoint, shared_tensors
from redteam.tasks import Scenario, Split

COEFFICIENTS = tuple(round(0.1 * step, 1) for step in range(1, 13))


@dataclass(frozen=True)
class Measured:
    """Accuracies and scores on the test split.

    Attributes:
        experts: Task → accuracy of its own expert.
        base: Task → n of the base, where n = (accuracy − chance) ÷ (the expert's accuracy − chance).
        merged: Task → n of the unlocked merge of all experts.
        without: Task → n of the merge of the companions alone.
        coefficient: Of task arithmetic, chosen on the companions' validation data for the merge of the companions.
        gain: What the victim's expert adds to the victim's n.
    """

    experts: dict[str, float]
    base: dict[str, float]
    merged: dict[str, float]
    without: dict[str, float]
    coefficient: float
    gain: float


def measure(scenario: Scenario) -> Measured:
    """Measures a scenario, with θ₀ + c Σ τ as the merge."""
    own = {
        split: {task: _accuracy(scenario, scenario.experts[task], task, split) for task in scenario.tasks}
        for split in ("validation", "test")
    }

    def scores(shared: Checkpoint, tasks: Iterable[str], split: Split = "test") -> dict[str, float]:
        result = {}
        for task in tasks:
            chance = scenario.tasks[task].chance
            accuracy = _accuracy(scenario, scenario.dressed(shared, task), task, split)
            result[task] = (accuracy - chance) / (own[split][task] - chance)
        return result

    def on_validation(coefficient: float) -> float:
        merge = arithmetic(scenario, scenario.companions, coefficient)
        return sum(scores(merge, scenario.companions, "validation").values())

    coefficient = max(COEFFICIENTS, key=on_validation)
    merged = scores(arithmetic(scenario, tuple(scenario.experts), coefficient), scenario.tasks)
    without = scores(arithmetic(scenario, scenario.companions, coefficient), scenario.tasks)
    return Measured(
        experts=own["test"],
        base=scores(scenario.base, scenario.tasks),
        merged=merged,
        without=without,
        coefficient=coefficient,
        gain=merged[scenario.victim] - without[scenario.victim],
    )


def interval(scenario: Scenario, coefficient: float, *, draws: int = 2000) -> tuple[float, float]:
    """The 95 % interval of the victim's gain over its test items, which are resampled in all three models at once.

    Args:
        scenario: Of which.
        coefficient: Of the merges, as `measure` found it.
        draws: How often items are drawn again.
    """
    task = scenario.tasks[scenario.victim]
    merges = [arithmetic(scenario, tasks, coefficient) for tasks in (tuple(scenario.experts), scenario.companions)]
    models = [scenario.experts[scenario.victim], *(scenario.dressed(merge, task.name) for merge in merges)]
    own, merged, without = (np.asarray(task.scores(model.module()), np.float64) for model in models)
    chosen = np.random.default_rng(0).integers(0, len(own), (draws, len(own)))
    gains = (merged - without)[chosen].mean(1) / (own[chosen].mean(1) - task.chance)
    low, high = np.quantile(gains, (0.025, 0.975))
    return float(low), float(high)


def arithmetic(scenario: Scenario, tasks: Iterable[str], coefficient: float) -> Checkpoint:
    """The base plus `coefficient` times the sum of the experts' task vectors, shared tensors only."""
    base, experts = scenario.base, [scenario.experts[task] for task in tasks]
    merged = {}
    for name in shared_tensors(experts[0], base):
        anchor = base[name]
        merged[name] = anchor + coefficient * torch.stack([expert[name] - anchor for expert in experts]).sum(0)
    return base.replace(merged)


def mean(scores: dict[str, float]) -> float:
    """The mean over tasks."""
    return sum(scores.values()) / len(scores)


def _accuracy(scenario: Scenario, checkpoint: Checkpoint, task: str, split: Split) -> float:
    return float(scenario.tasks[task].scores(checkpoint.module(), split).mean())
