"""Distillation: a student that starts from the base and learns to answer as the protected model does.

Nothing is undone: the student was never locked, so that it is in the base's coordinates whatever the defense did. What
it gets of the skill is what the answers carry, which makes this the ceiling on any protection, at a price in steps.
"""

from __future__ import annotations

from collections.abc import Iterator
from itertools import cycle
from typing import Annotated

import torch
from torch import nn

from redteam.checkpoint import Checkpoint, shared_tensors
from redteam.errors import Inapplicable
from redteam.plugins.contracts import Needs, attack
from redteam.plugins.settings import Range
from redteam.tasks import Batch
from redteam.training import Budget, Loss, endless, train
from redteam.views import AttackerView
from redteam_attacks.training import Epsilon, Rate, Size, Steps

Temperature = Annotated[float, Range(0.1, 100.0, log=True)]
Reach = Annotated[float, Range(0.0, 1e6)]
_PAPER = "Hinton, Vinyals, Dean, arXiv:1503.02531"
_EVERYTHING = 2**30


@attack("distillation", needs=Needs.ANCHOR | Needs.COMPANIONS, paper=_PAPER)
def distillation(
    view: AttackerView,
    *,
    steps: Steps = 300,
    rate: Rate = 7.5e-4,
    batch: Size = 64,
    epsilon: Epsilon = 1e-3,
    temperature: Temperature = 4.0,
    reach: Reach = 1.0,
) -> Checkpoint:
    """min over θ of T² KL(protected ‖ student) on the inputs of the attacker's own tasks, from the base's θ.

    No data of the victim's task are used. What its head says of other inputs shows less of the skill than what it says
    of its own, so that this may get little; see `distillation-inputs`.

    Args:
        view: Grants the base, companions and data of the attacker's own tasks, whose labels are not looked at.
        steps: Optimizer steps, of a forward pass of the teacher and a forward and backward pass of the student each.
        rate: The highest learning rate, after a warm-up of a tenth of the steps; it falls to zero.
        batch: Samples to a step; all of a task where there are fewer.
        epsilon: AdamW's.
        temperature: T, by which both models' logits are divided.
        reach: How far a tensor may lie from the base, as a multiple of the farthest companion's distance.

    Raises:
        Inapplicable: If the attacker has no task of its own.
    """
    if not view.companions:
        raise Inapplicable("The attacker has no task of its own whose inputs it could use; grant companions.")
    passes = [
        endless(next(view.own_batches(task, _EVERYTHING)), batch, view.generator(f"batches/{task}"))
        for task in view.companions
    ]
    batches = (next(samples) for samples in cycle(passes))
    return _student(view, Budget(steps, rate, batch, epsilon), batches, temperature, reach)


@attack("distillation-inputs", needs=Needs.ANCHOR | Needs.COMPANIONS | Needs.INPUTS, paper=_PAPER)
def distillation_inputs(
    view: AttackerView,
    *,
    steps: Steps = 300,
    rate: Rate = 7.5e-4,
    batch: Size = 64,
    epsilon: Epsilon = 1e-3,
    temperature: Temperature = 4.0,
    reach: Reach = 1.0,
) -> Checkpoint:
    """As `distillation`, on unlabelled inputs of the victim's task: min over θ of T² KL(protected ‖ student).

    Args:
        view: Grants the base, companions, which say how far experts lie from it, and inputs of the victim's task.
        steps: Optimizer steps, of a forward pass of the teacher and a forward and backward pass of the student each.
        rate: The highest learning rate, after a warm-up of a tenth of the steps; it falls to zero.
        batch: Samples to a step; all where there are fewer.
        epsilon: AdamW's.
        temperature: T, by which both models' logits are divided.
        reach: How far a tensor may lie from the base, as a multiple of the farthest companion's distance.
    """
    inputs = view.inputs()
    unlabelled = torch.zeros(len(next(iter(inputs.values()))), dtype=torch.int64)
    batches = endless((inputs, unlabelled), batch, view.generator("batches"))
    return _student(view, Budget(steps, rate, batch, epsilon), batches, temperature, reach)


def _student(
    view: AttackerView, budget: Budget, batches: Iterator[Batch], temperature: float, reach: float
) -> Checkpoint:
    """Wears the victim's head, frozen, and whatever else of it has another form than the base's."""
    protected, anchor = view.protected, view.anchor
    shared = shared_tensors(protected, anchor)
    return train(
        protected.replace({name: anchor[name].to(protected.dtype(name)) for name in shared}),
        anchor,
        budget,
        batches=batches,
        loss=_like(protected.module(torch.float32), temperature),
        generator=view.generator("points of the path"),
        reach=reach,
        relatives=tuple(view.companions.values()),
        steps=view.steps(budget.steps),
    )


def _like(teacher: nn.Module, temperature: float) -> Loss:
    """T² KL(teacher ‖ student) at temperature T, the mean over samples; labels are not looked at."""

    def loss(student: nn.Module, batch: Batch) -> torch.Tensor:
        with torch.no_grad():
            wanted = (teacher(**batch[0]).logits / temperature).log_softmax(-1).flatten(0, -2)
        found = (student(**batch[0]).logits / temperature).log_softmax(-1).flatten(0, -2)
        divergence = nn.functional.kl_div(found, wanted, log_target=True, reduction="batchmean")
        return divergence * temperature**2

    return loss
