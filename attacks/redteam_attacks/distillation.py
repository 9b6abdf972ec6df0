"""Distillation: a student that starts from the base and learns to answer as the protected model does."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import chain
from typing import TYPE_CHECKING, Annotated

import torch
from torch import Tensor

from redteam.checkpoint import Checkpoint, own_tensors
from redteam.checkpoint.known import HEAD_ENTRIES
from redteam.errors import Inapplicable
from redteam.imitation import answers, divergence, imitating, same_basis, unlabelled
from redteam.plugins.contracts import Needs, attack
from redteam.plugins.settings import Range
from redteam.tasks import Batch
from redteam.threat import QUERIES
from redteam.training import Budget, endless, in_turn, train
from redteam.views import AttackerView
from redteam_attacks.training import Epsilon, Rate, Size, Steps, evenly

if TYPE_CHECKING:
    from torch import nn

_PAPER = "Hinton, Vinyals and Dean, arXiv:1503.02531; hidden states as in TinyBERT, arXiv:1909.10351"
_ALL = 2**31
_ANSWERS = 2**28  # numbers in all answers that are kept: 1 GB

Temperature = Annotated[float, Range(0.5, 20.0, log=True)]
Weight = Annotated[float, Range(0.0, 100.0)]
Path = Annotated[tuple[float, float], Range(0.0, 2.0)]
Queries = Annotated[int, Range(1, 10**9)]
Reach = Annotated[float, Range(0.0, 1e6)]


@attack(
    "distillation",
    needs=Needs.ANCHOR | Needs.COMPANIONS | Needs.INPUTS,
    targets=("mergelock",),
    changes_architecture=True,
    paper=_PAPER,
)
def distillation(
    view: AttackerView,
    *,
    steps: Steps = 150,
    rate: Rate = 7.5e-4,
    batch: Size = 64,
    epsilon: Epsilon = 1e-3,
    temperature: Temperature = 2.0,
    features: Weight = 1.0,
    path: Path = (1.0, 1.0),
    reach: Reach = 1.0,
) -> Checkpoint:
    """min over θ of E_c [T² KL(teacher ‖ student at θ₀ + c (θ − θ₀)) + features · error of the hidden states].

    Of the protected model only the answers, the hidden states and the head are used, so that no lock that keeps the
    function stops it and what it gets is a ceiling on any protection. The student is trained from the base, in the
    base's basis. The budget is that of `fine-tune`. Labels are not used.

    Args:
        view: Grants the base, companions and inputs of the victim's task.
        steps: Optimizer steps, of a forward pass of the teacher and a forward and backward pass of the student each.
        rate: The highest learning rate, after a warm-up of a tenth of the steps; it falls to zero.
        batch: Samples to a step; all where there are fewer.
        epsilon: AdamW's.
        temperature: T, by which both networks' logits are divided.
        features: Weight of the hidden states' squared error, relative to the teacher's variance, averaged over all
            blocks. They are compared only where the embeddings show the base's basis: no lock inside heads or between
            neurons moves them, one of the residual stream does. 0 for logits alone.
        path: The range from which c is drawn evenly. The student alone by default: it starts in the base's basis, where
            a part of its task vector is worth a part of its skill, and asked for all of it halfway it overshoots.
        reach: How far a tensor may lie from the base, as a multiple of the farthest companion's distance.

    Raises:
        Inapplicable: If the network gives no logits, or other ones than the base under the victim's head.
    """
    given = view.inputs()
    batches = endless(unlabelled(given), batch, view.generator("batches"))
    return _taught(view, batches, Budget(steps, rate, batch, epsilon), temperature, features, path, reach)


@attack(
    "distill-own",
    needs=Needs.ANCHOR | Needs.COMPANIONS,
    targets=("mergelock",),
    changes_architecture=True,
    paper=_PAPER,
)
def distill_own(
    view: AttackerView,
    *,
    steps: Steps = 150,
    rate: Rate = 7.5e-4,
    batch: Size = 64,
    epsilon: Epsilon = 1e-3,
    temperature: Temperature = 2.0,
    features: Weight = 1.0,
    path: Path = (1.0, 1.0),
    reach: Reach = 1.0,
) -> Checkpoint:
    """As `distillation`, on inputs of the attacker's own tasks in turn: no data of the victim's task at all.

    What the victim does on foreign inputs tells of its skill what its hidden states do there; its answers, by
    themselves, tell little.

    Args:
        view: Grants the base, companions and data of their tasks.
        steps: Optimizer steps, of a forward pass of the teacher and a forward and backward pass of the student each.
        rate: The highest learning rate, after a warm-up of a tenth of the steps; it falls to zero.
        batch: Samples to a step, all of one task; all where there are fewer.
        epsilon: AdamW's.
        temperature: T, by which both networks' logits are divided.
        features: Weight of the hidden states' error, as in `distillation`.
        path: The range from which c is drawn evenly.
        reach: How far a tensor may lie from the base, as a multiple of the farthest companion's distance.

    Raises:
        Inapplicable: As `distillation`, or if there is no task of the attacker's own.
    """
    if not view.companions:
        raise Inapplicable("There is no task of the attacker's own to take inputs from; give companions.")
    pools = [
        endless(unlabelled(next(view.own_batches(task, _ALL))[0]), batch, view.generator(f"batches of {task}"))
        for task in view.companions
    ]
    batches = in_turn(pools)
    return _taught(view, batches, Budget(steps, rate, batch, epsilon), temperature, features, path, reach)


@attack("imitation", role="interface", needs=Needs.ANCHOR | Needs.COMPANIONS | Needs.OUTPUTS, paper=_PAPER)
def imitation(
    view: AttackerView,
    *,
    queries: Queries | None = None,
    steps: Steps = 150,
    rate: Rate = 7.5e-4,
    batch: Size = 64,
    epsilon: Epsilon = 1e-3,
    temperature: Temperature = 2.0,
    reach: Reach = 1.0,
) -> Checkpoint:
    """As `distill-own` from logits alone, asked once for each input: what any release gives away, an interface too.

    No protection of weights can keep it, so that other attacks' theft is measured from it.

    Args:
        view: Grants the base, companions with data of their tasks, and answers.
        queries: Inputs that are answered, in equal shares from what the attacker's own tasks were trained on; at most
            what there is, what the threat model grants, and what 1 GB of answers holds. By default what is granted, or
            4096 where that is any number.
        steps: Optimizer steps, each on answers that are there.
        rate: The highest learning rate.
        batch: Samples to a step, all of one task.
        epsilon: AdamW's.
        temperature: T, by which both networks' logits are divided.
        reach: How far a tensor may lie from the base, as a multiple of the farthest companion's distance.

    Raises:
        Inapplicable: If there is no task of the attacker's own.
    """
    if not view.companions:
        raise Inapplicable("There is no task of the attacker's own to take inputs from; give companions.")
    start = _student(view)
    granted = view.queries
    limit = (queries or QUERIES) if granted is None else min(queries or granted, granted)
    pools = [
        endless(answered, batch, view.generator(f"batches of {task}"))
        for task, answered in _answered(view, limit).items()
    ]

    def loss(student: nn.Module, given: Batch) -> Tensor:
        inputs, wanted = given
        logits = student(**inputs).logits
        if logits.ndim == 3:
            wanted = wanted[:, : logits.shape[1]]  # asked with more padding than this batch has
        return divergence(logits, wanted, inputs, temperature)

    return train(
        start,
        view.anchor,
        Budget(steps, rate, batch, epsilon),
        batches=in_turn(pools),
        loss=loss,
        generator=view.generator("points of the path"),
        reach=reach,
        relatives=tuple(view.companions.values()),
        steps=view.steps(steps),
    )


def _answered(view: AttackerView, limit: int) -> dict[str, Batch]:
    """Task → inputs of the attacker's own, and the protected model's logits for them."""
    found: dict[str, Batch] = {}
    left = limit
    for place, task in enumerate(view.companions):
        share = left // (len(view.companions) - place)
        inputs = view.own_inputs(task, max(1, share))
        one = view.answers({name: value[:1] for name, value in inputs.items()}) if share else None
        if one is None:
            continue
        room = max(1, _ANSWERS // (one.numel() * len(view.companions)))
        rest = {name: value[1 : min(share, room)] for name, value in inputs.items()}
        more = [view.answers(rest)] if len(next(iter(rest.values()))) else []
        answers = torch.cat([one, *more])
        found[task] = {name: value[: len(answers)] for name, value in inputs.items()}, answers
        left -= len(answers)
    return found


def _taught(
    view: AttackerView,
    batches: Iterator[Batch],
    budget: Budget,
    temperature: float,
    features: float,
    path: tuple[float, float],
    reach: float,
) -> Checkpoint:
    start, first = _student(view), next(batches)
    with torch.no_grad(), torch.random.fork_rng(devices=[]):  # transformers may initialise before it loads
        novice, teacher = (network.module(torch.float32) for network in (start, view.protected))
        ours, theirs = (answers(network, first[0], features > 0) for network in (novice, teacher))
    if ours[0].shape != theirs[0].shape:
        raise Inapplicable(
            f"The protected model's logits have shape {tuple(theirs[0].shape)} and those of the base under its head "
            f"{tuple(ours[0].shape)}; expected the same."
        )
    weight = features if same_basis(ours[1], theirs[1]) else 0.0

    return train(
        start,
        view.anchor,
        budget,
        batches=chain((first,), batches),
        loss=imitating(teacher, temperature, weight),
        generator=view.generator("points of the path"),
        points=evenly(path),
        reach=reach,
        relatives=tuple(view.companions.values()),
        steps=view.steps(budget.steps),
    )


def _student(view: AttackerView) -> Checkpoint:
    """The base under the victim's head, in the shapes of the attacker's own experts: a lock may have changed others."""
    protected, anchor = view.protected, view.anchor
    pattern = next(iter(view.companions.values()), protected)
    head = {name: protected[name] for name in own_tensors(pattern, anchor) if name in protected}
    body = {
        name: anchor[name].to(protected.dtype(name) if name in protected else pattern.dtype(name))
        for name in pattern
        if name not in head and name in anchor
    }
    told = {key: protected.config[key] for key in HEAD_ENTRIES if key in protected.config}
    kept = {key: value for key, value in pattern.config.items() if key not in HEAD_ENTRIES}
    return Checkpoint.of(body | head, {**kept, **told})
