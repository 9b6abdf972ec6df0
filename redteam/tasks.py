"""Tasks, which say how good a model is, and scenarios, which bring a base, its experts and their tasks together."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any, Literal, Protocol

import numpy as np
import torch

from redteam.checkpoint import Checkpoint, own_tensors, shared_tensors

if TYPE_CHECKING:
    from torch import nn

Split = Literal["train", "validation", "test"]
Batch = tuple[dict[str, torch.Tensor], torch.Tensor]
_EVALUATION_BATCH = 256  # fixed, because it can change the last bits of a logit


class Task(Protocol):
    """What the evaluation asks of a task."""

    @property
    def name(self) -> str:
        """What the task is called."""

    @property
    def chance(self) -> float:
        """The accuracy of guessing."""

    def correct(self, module: nn.Module, split: Split = "test") -> np.ndarray[Any, np.dtype[np.bool_]]:
        """One result per sample."""

    def predictions(self, module: nn.Module, split: Split) -> np.ndarray[Any, np.dtype[np.int64]]:
        """One answer per sample, labels unused."""

    def inputs_of(self, split: Split) -> Mapping[str, torch.Tensor]:
        """The inputs of a split, as the network takes them."""

    def batches(self, split: Split, size: int, generator: np.random.Generator) -> Iterator[Batch]:
        """One pass over a split in random order."""

    def loss(self, module: nn.Module, batch: Batch) -> torch.Tensor:
        """The training loss of a batch, a scalar."""

    def digest(self) -> str:
        """SHA-256 of the data."""


@dataclass(frozen=True)
class Classification:
    """Classification with one right answer.

    Attributes:
        name: What the task is called.
        chance: The accuracy of guessing.
        inputs: Split → the network's keyword arguments, each `[n, …]`.
        labels: Split → int64 `[n]`.
    """

    name: str
    chance: float
    inputs: Mapping[str, Mapping[str, torch.Tensor]] = field(repr=False)
    labels: Mapping[str, torch.Tensor] = field(repr=False)

    def correct(self, module: nn.Module, split: Split = "test") -> np.ndarray[Any, np.dtype[np.bool_]]:
        """One result per sample, bool `[n]`. A logit that is not finite counts as wrong."""
        right: np.ndarray[Any, np.dtype[np.bool_]] = self.predictions(module, split) == self.labels[split].numpy()
        return right

    def predictions(self, module: nn.Module, split: Split) -> np.ndarray[Any, np.dtype[np.int64]]:
        """The class with the largest logit, int64 `[n]`; -1 where a logit is not finite."""
        return predict(module, self.inputs[split])

    def inputs_of(self, split: Split) -> Mapping[str, torch.Tensor]:
        """The inputs of a split, without the labels."""
        return self.inputs[split]

    def batches(self, split: Split, size: int, generator: np.random.Generator) -> Iterator[Batch]:
        """One pass over a split in random order, the last batch possibly smaller."""
        order = torch.from_numpy(generator.permutation(len(self.labels[split])))
        for chosen in torch.split(order, size):
            yield {key: value[chosen] for key, value in self.inputs[split].items()}, self.labels[split][chosen]

    def loss(self, module: nn.Module, batch: Batch) -> torch.Tensor:
        """The mean cross-entropy."""
        inputs, labels = batch
        return torch.nn.functional.cross_entropy(module(**inputs).logits, labels)

    def part(self, split: Split, chosen: slice) -> Classification:
        """The same with some of a split's samples."""
        inputs = {key: value[chosen] for key, value in self.inputs[split].items()}
        return replace(
            self, inputs={**self.inputs, split: inputs}, labels={**self.labels, split: self.labels[split][chosen]}
        )

    def digest(self) -> str:
        """SHA-256 of every split's inputs and labels, in hexadecimal."""
        digest = hashlib.sha256(f"{self.name}\0{self.chance}".encode())
        for split in sorted(self.labels):
            for key, value in (*sorted(self.inputs[split].items()), ("labels", self.labels[split])):
                digest.update(f"{split}\0{key}\0{tuple(value.shape)}\0".encode())
                digest.update(value.contiguous().numpy().tobytes())
        return digest.hexdigest()


def halves(task: Task) -> tuple[Task, Task]:
    """A task with either half of its validation samples: one for attacks to use, one to look at what came of them.

    What an attack was tuned on says nothing of it any more. A task of another kind is used whole for both.
    """
    if not isinstance(task, Classification):
        return task, task
    middle = len(task.labels["validation"]) // 2
    return task.part("validation", slice(middle)), task.part("validation", slice(middle, None))


def predict(module: nn.Module, inputs: Mapping[str, torch.Tensor]) -> np.ndarray[Any, np.dtype[np.int64]]:
    """The class with the largest logit for every input, int64 `[n]`; -1 where a logit is not finite."""
    answers = []
    with torch.inference_mode():
        for start in range(0, len(next(iter(inputs.values()))), _EVALUATION_BATCH):
            part = {key: value[start : start + _EVALUATION_BATCH] for key, value in inputs.items()}
            logits = module(**part).logits
            best = logits.argmax(-1)
            best[~logits.isfinite().all(-1)] = -1
            answers.append(best.numpy())
    return np.concatenate(answers)


@dataclass(frozen=True)
class Scenario:
    """A base, experts fine-tuned from it, their tasks, and which of them is the victim.

    Attributes:
        name: What the scenario is called.
        seed: Which retraining of base and experts this is.
        base: The public model that all experts started from.
        experts: Task name → expert.
        tasks: Task name → task, the same names.
        victim: The task whose expert is protected.
        summary: One paragraph for the report.
    """

    name: str
    seed: int
    base: Checkpoint
    experts: Mapping[str, Checkpoint]
    tasks: Mapping[str, Task]
    victim: str
    summary: str = ""

    def __post_init__(self) -> None:
        """Gives all models the names that transformers saves them by, where they don't agree."""
        if any(name not in expert for expert in self.experts.values() for name in self.base):
            experts = {name: expert.canonical() for name, expert in self.experts.items()}
            object.__setattr__(self, "base", self.base.canonical())
            object.__setattr__(self, "experts", experts)

    @property
    def companions(self) -> tuple[str, ...]:
        """The tasks whose experts the free-rider owns."""
        return tuple(name for name in self.experts if name != self.victim)

    def dressed(self, shared: Checkpoint, task: str) -> Checkpoint:
        """The shared tensors of a merge (or of the base) with the task's own tensors, ready to run on `task`.

        Args:
            shared: A checkpoint from which the shared tensors are taken.
            task: Whose head to wear.
        """
        expert = self.experts[task]
        own = {name: expert[name] for name in own_tensors(expert, self.base)}
        kept = {name: shared[name] for name in shared_tensors(expert, self.base)}
        return Checkpoint.of(kept | own, expert.config)

    def digest(self) -> str:
        """SHA-256 over the weights of base and experts and over the data: seeds that give the same are one seed."""
        digest = hashlib.sha256(f"{self.victim}\0{self.base.digest()}".encode())
        for name in sorted(self.experts):
            digest.update(f"\0{name}\0{self.experts[name].digest()}\0{self.tasks[name].digest()}".encode())
        return digest.hexdigest()
