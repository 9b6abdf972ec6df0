"""Heads fitted on the base's states, and experts fine-tuned under them, to the same bits each time on one machine."""

from __future__ import annotations

import numpy as np
import torch

from redteam.checkpoint import Checkpoint
from redteam.checkpoint.pooling import HEAD, headed
from redteam.tasks import Classification
from redteam.tasks.task import forward
from redteam.training import Budget, endless, train
from redteam_scenarios.docstrings.recipe import TASKS, Recipe
from redteam_scenarios.together import Steps

_STREAM = 2  # the other streams of a seed are in data.py


def with_head(recipe: Recipe, base: Checkpoint, task: Classification) -> Checkpoint:
    """The base under a linear head: logistic regression on the mean of its states, over training texts.

    Args:
        recipe: Says over how many.
        base: The bare encoder.
        task: Its classes become the head's rows.
    """
    from sklearn.linear_model import LogisticRegression
    from threadpoolctl import threadpool_limits

    labels, width = TASKS[task.name].classes, int(base.config["hidden_size"])
    alike = {HEAD[0]: torch.eye(width), HEAD[1]: torch.zeros(width)}  # a head that gives the mean itself
    reader = Checkpoint.of({**base, **alike}, headed(base.config, [str(i) for i in range(width)], "mean"))
    given = {name: value[: recipe.fitted] for name, value in task.inputs_of("train").items()}
    means = forward(reader.module(), given, lambda _, logits, __: logits).double().numpy()
    with threadpool_limits(1):
        fitted = LogisticRegression(max_iter=2000).fit(means, task.labels["train"][: recipe.fitted].numpy())
    weight, bias = fitted.coef_, fitted.intercept_
    if len(labels) == 2:  # scikit-learn keeps the second row alone
        weight, bias = np.concatenate([0 * weight, weight]), np.concatenate([0 * bias, bias])
    head = {HEAD[0]: torch.from_numpy(weight).float(), HEAD[1]: torch.from_numpy(bias).float()}
    return Checkpoint.of({**base, **head}, headed(base.config, labels, "mean"))


def finetune(recipe: Recipe, seed: int, base: Checkpoint, task: Classification, steps: Steps) -> Checkpoint:
    """Trains the encoder on a task. The head is fitted before, and stays as it is.

    Args:
        recipe: Says for how long.
        seed: Draws the order of the texts.
        base: The bare encoder, where training starts.
        task: What is learned.
        steps: Numbers them.
    """
    draws = np.random.default_rng([seed, _STREAM, list(TASKS).index(task.name)])
    return train(
        with_head(recipe, base, task),
        base,
        Budget(recipe.steps, recipe.rate, recipe.batch, recipe.epsilon),
        batches=endless((dict(task.inputs_of("train")), task.labels["train"]), recipe.batch, draws),
        loss=task.loss,
        generator=draws,
        steps=steps(recipe.steps),
    )
