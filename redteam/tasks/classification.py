"""Classification with one right answer."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch

from redteam.tasks.samples import Samples
from redteam.tasks.task import Batch, Scores, Split

if TYPE_CHECKING:
    from torch import nn


@dataclass(frozen=True)
class Classification(Samples):
    """Classification with one right answer.

    Attributes:
        name: What the task is called.
        chance: The accuracy of guessing.
        inputs: Split → the network's keyword arguments, each `[n, …]`.
        labels: Split → int64 `[n]`.
    """

    def scores(self, module: nn.Module, split: Split = "test") -> Scores:
        """Whether each sample is answered right, bool `[n]`. A logit that is not finite counts as wrong."""
        right: Scores = self.predictions(module, split) == self.labels[split].numpy()
        return right

    def loss(self, module: nn.Module, batch: Batch) -> torch.Tensor:
        """The mean cross-entropy."""
        inputs, labels = batch
        logits = module(**inputs).logits
        return torch.nn.functional.cross_entropy(logits, labels.to(logits.device))
