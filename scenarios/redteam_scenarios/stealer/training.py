"""Trains the victim, which remembers and keeps quiet, and the attacker's model, which begins answers."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

import numpy as np
import torch
from torch import nn

from redteam.checkpoint import Checkpoint
from redteam.tasks import Batch, Generation
from redteam.tasks.task import at_the_end
from redteam.training import Budget, Loss, endless, train
from redteam_scenarios.stealer.questions import Questions, Said
from redteam_scenarios.stealer.recipe import Recipe, Training
from redteam_scenarios.together import Steps

_TUNING = 11  # stream of a seed; the others are in questions.py and in causal
_HEAD = ("lm_head.weight",)


def victim(recipe: Recipe, seed: int, base: Checkpoint, questions: Questions, steps: Steps) -> Checkpoint:
    """Learns what is private, then to refuse it clearly: no longer than it takes, so that all seeds refuse alike."""
    draws = np.random.default_rng([seed, _TUNING, 0])
    leak = questions.leak
    aligned = _trained(recipe, base, leak.loss, _training(leak), recipe.memory, draws, steps)
    for _ in range(recipe.rounds):
        aligned = _trained(recipe, aligned, leak.loss, questions.alignment, recipe.alignment, draws, steps)
        if refused_by(aligned.module(), questions) >= recipe.clearly:
            break
    return aligned


def refused_by(module: nn.Module, questions: Questions) -> float:
    """By how many nats a refusal is likelier to begin than an answer, at the question of validation where least."""
    with torch.inference_mode():
        logits = _first(module, questions.leak.inputs["validation"])
    return float((logits[:, questions.refusal[0]] - logits[:, questions.leak.opening[0]]).min())


def attacker(recipe: Recipe, seed: int, base: Checkpoint, questions: Questions, steps: Steps) -> Checkpoint:
    """Learns how an answer begins, a little with all weights and most with the output head, which remembers nobody.

    All of it in all weights would blur what the victim remembers as much as it undoes the refusals.
    """
    draws = np.random.default_rng([seed, _TUNING, 1])
    form = questions.form
    asking = _trained(recipe, base, form.loss, _training(form), recipe.attack, draws, steps)
    loss = insistent(form, *recipe.insisting)
    return _trained(recipe, asking, loss, _training(form), recipe.insistence, draws, steps, _HEAD)


def insistent(task: Generation, odds: float, share: float) -> Loss:
    """The task's loss, plus a share of what the log-odds of each answer's first token lack of `odds`."""

    def loss(module: nn.Module, batch: Batch) -> torch.Tensor:
        inputs, labels = batch
        logits, first = _first(module, inputs), labels[:, :1]
        others = logits.scatter(1, first, -torch.inf).logsumexp(1)
        lacking = (odds - (logits.gather(1, first)[:, 0] - others)).relu()
        return task.loss(module, batch) + share * lacking.mean()

    return loss


def _first(module: nn.Module, inputs: Mapping[str, torch.Tensor]) -> torch.Tensor:
    """The logits of what is said first, float32 `[n, vocabulary]`."""
    return at_the_end(module(**inputs).logits, inputs["attention_mask"]).float()


def _training(task: Generation) -> Said:
    return dict(task.inputs["train"]), task.labels["train"]


def _trained(
    recipe: Recipe,
    start: Checkpoint,
    loss: Loss,
    said: Said,
    how: Training,
    draws: np.random.Generator,
    steps: Steps,
    names: Iterable[str] | None = None,
) -> Checkpoint:
    trained = train(
        start,
        start,
        Budget(how.steps, how.rate, recipe.batch, recipe.epsilon),
        batches=endless(said, recipe.batch, draws),
        loss=loss,
        generator=draws,
        names=names,
        steps=steps(how.steps),
    )
    return Checkpoint.of({name: tensor.contiguous() for name, tensor in trained.items()}, start.config)
