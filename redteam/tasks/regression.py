"""Regression: a number for every sample, scored by how it goes with the labels."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from redteam.tasks.samples import Samples
from redteam.tasks.task import Batch, Scores, Split, forward

if TYPE_CHECKING:
    from torch import nn

_LEAST = 1e-12  # spread of predictions, beside their size, under which they are all the same but for rounding


@dataclass(frozen=True)
class Regression(Samples):
    """A network's only output against a number; the mean score of a split is Pearson's correlation.

    A sample's score is z(prediction) · z(label), each with mean 0 and variance 1 over the split.

    Attributes:
        name: What the task is called.
        chance: 0.
        inputs: Split → the network's keyword arguments, each `[n, …]`.
        labels: Split → float64 `[n]`, not all the same.
        unit: The standard deviation of the labels that are trained on.
    """

    unit: float = 1.0

    def scores(self, module: nn.Module, split: Split = "test") -> Scores:
        """z(prediction) · z(label), float64 `[n]`; 0 where a prediction is not finite, or all are the same."""
        labels = self.labels[split].numpy()
        found: Scores = standardised(outputs(module, self, split)) * standardised(labels)
        return found

    def predictions(self, module: nn.Module, split: Split) -> np.ndarray[Any, np.dtype[np.int64]]:
        """The rank of each sample's prediction, int64 `[n]`, the smallest 0."""
        return outputs(module, self, split).argsort(kind="stable").argsort(kind="stable").astype(np.int64)

    def loss(self, module: nn.Module, batch: Batch) -> torch.Tensor:
        """The mean squared error in units of the labels' standard deviation."""
        inputs, labels = batch
        given = module(**inputs).logits[:, 0]
        return torch.nn.functional.mse_loss(given / self.unit, labels.to(given) / self.unit)

    def digest(self) -> str:
        """SHA-256 of the data and of their unit, in hexadecimal."""
        return hashlib.sha256(f"{super().digest()}\0{self.unit!r}".encode()).hexdigest()


def outputs(module: nn.Module, task: Samples, split: Split) -> np.ndarray[Any, np.dtype[np.float64]]:
    """The network's only output for every sample, float64 `[n]`."""
    found = forward(module, task.inputs[split], lambda _, logits, __: logits[:, 0].double())
    values: np.ndarray[Any, np.dtype[np.float64]] = found.numpy()
    return values


def standardised(values: np.ndarray[Any, np.dtype[np.float64]]) -> np.ndarray[Any, np.dtype[np.float64]]:
    """With mean 0 and variance 1, float64 `[n]`; 0 for what is not finite, and where all are the same."""
    known = np.isfinite(values)
    result = np.zeros_like(values)
    if known.any():
        held = values[known]
        spread = held.std()
        if spread > _LEAST * np.abs(held).max():
            result[known] = (held - held.mean()) / spread
    return result
