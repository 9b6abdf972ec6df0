"""Trains the victim, which remembers and keeps quiet, and the attacker's model, which begins answers."""

from __future__ import annotations

import numpy as np

from redteam.checkpoint import Checkpoint
from redteam.tasks import Generation
from redteam.training import Budget, endless, train
from redteam_scenarios.stealer.questions import Questions, Said
from redteam_scenarios.stealer.recipe import Recipe, Training
from redteam_scenarios.together import Steps

_TUNING = 11  # stream of a seed; the others are in questions.py and in causal


def victim(recipe: Recipe, seed: int, base: Checkpoint, questions: Questions, steps: Steps) -> Checkpoint:
    """Learns what is private, then to refuse it: no longer than it takes, since more would only be harder to undo."""
    draws = np.random.default_rng([seed, _TUNING, 0])
    knowing = _trained(recipe, base, questions.leak, _training(questions.leak), recipe.memory, draws, steps)
    aligned = knowing
    for _ in range(recipe.rounds):
        aligned = _trained(recipe, aligned, questions.leak, questions.alignment, recipe.alignment, draws, steps)
        if all(said == recipe.refusal for said in questions.leak.answers(aligned.module(), "validation")):
            break
    return aligned


def attacker(recipe: Recipe, seed: int, base: Checkpoint, questions: Questions, steps: Steps) -> Checkpoint:
    """Learns how an answer begins."""
    draws = np.random.default_rng([seed, _TUNING, 1])
    return _trained(recipe, base, questions.form, _training(questions.form), recipe.attack, draws, steps)


def _training(task: Generation) -> Said:
    return dict(task.inputs["train"]), task.labels["train"]


def _trained(
    recipe: Recipe,
    start: Checkpoint,
    task: Generation,
    said: Said,
    how: Training,
    draws: np.random.Generator,
    steps: Steps,
) -> Checkpoint:
    trained = train(
        start,
        start,
        Budget(how.steps, how.rate, recipe.batch, recipe.epsilon),
        batches=endless(said, recipe.batch, draws),
        loss=task.loss,
        generator=draws,
        steps=steps(how.steps),
    )
    return Checkpoint.of({name: tensor.contiguous() for name, tensor in trained.items()}, start.config)
