"""Data in three splits: what tasks of every kind have in common."""

from __future__ import annotations

import hashlib
from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any, Self

import numpy as np
import torch

from redteam.tasks.task import Batch, Scores, Split, answers, trimmed

if TYPE_CHECKING:
    from torch import nn


@dataclass(frozen=True)
class Samples(ABC):
    """Inputs and labels in splits; a kind of task adds how they are scored and trained on.

    Attributes:
        name: What the task is called.
        chance: The mean score of whoever has learned nothing.
        inputs: Split → the network's keyword arguments, each `[n, …]`.
        labels: Split → what each sample is scored against, `[n]` or `[n, …]`.
    """

    name: str
    chance: float
    inputs: Mapping[str, Mapping[str, torch.Tensor]] = field(repr=False)
    labels: Mapping[str, torch.Tensor] = field(repr=False)

    @abstractmethod
    def scores(self, module: nn.Module, split: Split = "test") -> Scores:
        """One result per sample; more is better."""

    def figures(self, module: nn.Module, split: Split = "test") -> Mapping[str, Scores]:
        """The score alone; a kind of task that counts more than that says so."""
        return {"score": self.scores(module, split)}

    def held(self, module: nn.Module, split: Split = "test") -> Scores:
        """What a network shows; there is more to it where it was taught to keep something to itself."""
        return self.scores(module, split)

    def predictions(self, module: nn.Module, split: Split) -> np.ndarray[Any, np.dtype[np.int64]]:
        """One answer per sample, int64 `[n]`, as `redteam.tasks.answers` gives it."""
        return answers(module, self.inputs[split])

    def inputs_of(self, split: Split) -> Mapping[str, torch.Tensor]:
        """The inputs of a split, without the labels."""
        return self.inputs[split]

    def batches(self, split: Split, size: int, generator: np.random.Generator) -> Iterator[Batch]:
        """One pass over a split in random order, the last batch possibly smaller."""
        order = torch.from_numpy(generator.permutation(len(self.labels[split])))
        for chosen in torch.split(order, size):
            inputs = trimmed({key: value[chosen] for key, value in self.inputs[split].items()})
            yield inputs, self.labels[split][chosen]

    def part(self, split: Split, chosen: slice) -> Self:
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
