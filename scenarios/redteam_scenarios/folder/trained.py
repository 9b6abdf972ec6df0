"""Experts that a team has data for and no model: the base, fine-tuned on them and kept by what went into it."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator
from typing import Any

import numpy as np
import torch

from redteam.checkpoint import Checkpoint, own_tensors
from redteam.errors import BadInput
from redteam.events import Steps
from redteam.tasks import Task
from redteam.training import AT_A_TIME, Budget, by_length, train
from redteam_scenarios.caching import cache_root, whole
from redteam_scenarios.folder.adapters import adapted, adapter_version
from redteam_scenarios.folder.schema import Kind, TaskEntry
from redteam_scenarios.folder.source import Source

_CLASSES = {
    "text-classification": "MODEL_FOR_SEQUENCE_CLASSIFICATION_MAPPING_NAMES",
    "regression": "MODEL_FOR_SEQUENCE_CLASSIFICATION_MAPPING_NAMES",
    "image-classification": "MODEL_FOR_IMAGE_CLASSIFICATION_MAPPING_NAMES",
}
"""Kind → transformers' table of networks with a head for it."""


def untrained(
    name: str, entry: TaskEntry, kind: Kind | None, base: Checkpoint, labels: list[str], seed: int
) -> Checkpoint:
    """The base under the head of a task, drawn as its library draws it.

    Args:
        name: The task's.
        entry: What the file says of it.
        kind: What is scored.
        base: The base.
        labels: The classes, where the kind has some.
        seed: Of the head.

    Raises:
        BadInput: If nothing says what is to be trained, or the library has no such network.
    """
    if kind is None:
        raise BadInput(f'tasks.{name} is to be trained and nothing says for what; add kind = "…".')
    if kind not in _CLASSES:
        return base
    from transformers.models.auto import modeling_auto

    known = getattr(modeling_auto, _CLASSES[kind])
    if base.architecture not in known:
        raise BadInput(f"transformers has no {base.architecture} for {kind}; train the expert of {name!r} elsewhere.")
    named = {str(place): label for place, label in enumerate(labels)}
    config = {
        **base.config,
        "architectures": [known[base.architecture]],
        "id2label": named,
        "label2id": {label: int(place) for place, label in named.items()},
    }
    fresh = Checkpoint.of({}, config).fresh(seed)
    body = base if all(name in fresh for name in base) else base.configured(config).canonical()
    kept = {name: tensor for name, tensor in body.items() if name in fresh and fresh.shape(name) == tensor.shape}
    return fresh.replace(kept).stored_as(base)


def trained(source: Source, task: Task, seed: int) -> Checkpoint:
    """The expert, from the cache where it was trained before.

    AdamW at a rate that rises for a tenth of the steps and falls along a cosine, on batches in a random order; all
    weights are trained, the head's among them, or an adapter and the head.

    Args:
        source: The task, its expert being the base under an untrained head.
        task: What is trained on.
        seed: Of the order of the batches.

    Raises:
        BadInput: If the cache cannot be written, or an adapter is asked for and PEFT is not there.
    """
    entry, start = source.entry, source.expert
    settings = {
        "start": start.digest(),
        "data": task.digest(),
        "budget": [entry.steps, entry.rate, entry.batch],
        "seed": seed,
        "torch": torch.__version__,
        **({} if entry.lora is None else {"lora": [entry.lora, adapter_version(source.name)]}),
    }
    address = hashlib.sha256(json.dumps(settings, sort_keys=True).encode()).hexdigest()[:32]
    folder = cache_root() / "folder" / f"expert-{address}"
    if not folder.is_dir():
        draws = np.random.default_rng([seed, *source.name.encode()])
        with whole(folder) as work, Steps(f"expert of {source.name}", entry.steps) as steps:
            budget = Budget(entry.steps, entry.rate, entry.batch, epsilon=1e-8)
            batches, counted = _endless(task, entry.batch, draws), _counted(entry.steps, steps, source.name)
            if entry.lora is None:
                made = train(
                    start,
                    start,
                    budget,
                    batches=batches,
                    loss=task.loss,
                    generator=draws,
                    names=tuple(start),
                    steps=counted,
                )
            else:
                head = own_tensors(start, source.base)
                made = adapted(
                    start, budget, entry.lora, head=head, batches=batches, loss=task.loss, seed=seed, steps=counted
                )
            made.save(work / "expert")
    return Checkpoint.open(folder / "expert")


def _endless(task: Task, size: int, draws: np.random.Generator) -> Iterator[Any]:
    while True:
        yield from by_length(task.batches("train", size * AT_A_TIME, draws), size, draws)


def _counted(count: int, steps: Steps, what: str) -> Iterator[int]:
    for index in range(count):
        yield index
        steps.step(what)
