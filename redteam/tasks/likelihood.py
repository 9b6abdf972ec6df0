"""Language modelling: how much more likely a network finds a document than the base does."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
import torch.nn.functional as F

from redteam.tasks.samples import Samples
from redteam.tasks.task import Batch, Scores, Split, forward

if TYPE_CHECKING:
    from torch import nn

_IGNORED = -100


@dataclass(frozen=True)
class LogLikelihood(Samples):
    """Documents, scored by their log-likelihood under a causal language model, beyond the base's.

    A sample's score is log p(document) − log p_base(document), each divided by the number of tokens predicted; in nats.
    The base scores 0, so that n is the share of the gap between base and expert that a merge closes.

    Attributes:
        name: What the task is called.
        chance: 0, the base's.
        inputs: Split → `input_ids` and `attention_mask`, int64 `[n, tokens]`, padded behind.
        labels: Split → the base's log-likelihood per token, float64 `[n]`, as `log_likelihoods` gives it.
    """

    @classmethod
    def of(cls, name: str, inputs: Mapping[str, Mapping[str, torch.Tensor]], base: nn.Module) -> LogLikelihood:
        """The task whose zero is this network."""
        labels = {split: torch.from_numpy(log_likelihoods(base, held)) for split, held in inputs.items()}
        return cls(name, 0.0, inputs, labels)

    def scores(self, module: nn.Module, split: Split = "test") -> Scores:
        """The score of each document, float64 `[n]`."""
        found: Scores = log_likelihoods(module, self.inputs[split]) - self.labels[split].numpy()
        return found

    def loss(self, module: nn.Module, batch: Batch) -> torch.Tensor:
        """The mean cross-entropy of the tokens."""
        inputs, _ = batch
        return _surprise(module(**inputs).logits, inputs).nanmean()


def log_likelihoods(module: nn.Module, inputs: Mapping[str, torch.Tensor]) -> np.ndarray[Any, np.dtype[np.float64]]:
    """The mean log-likelihood of a document's tokens behind the first, in nats, float64 `[n]`.

    Whoever answers evenly gets −log(vocabulary) for every document, so that nothing counts for less: not a network
    that is surer of the wrong than that, nor one whose logits are not finite.
    """

    def mean(part: dict[str, torch.Tensor], logits: torch.Tensor, _: torch.Tensor) -> torch.Tensor:
        lowest = -math.log(logits.shape[-1])
        found = -_surprise(logits, part).to(torch.float64).nanmean(1)
        return found.nan_to_num(lowest, lowest, lowest).clamp_min(lowest)

    found: np.ndarray[Any, np.dtype[np.float64]] = forward(module, inputs, mean).numpy()
    return found


def _surprise(logits: torch.Tensor, inputs: Mapping[str, torch.Tensor]) -> torch.Tensor:
    """−log p of every token behind the first, `[n, tokens − 1]`; NaN at padding."""
    labels, mask = inputs["input_ids"][:, 1:], inputs.get("attention_mask")
    held = torch.ones_like(labels, dtype=torch.bool) if mask is None else mask[:, 1:] != 0
    labels, held = labels.to(logits.device), held.to(logits.device)
    given = logits[:, :-1].float()
    surprise = F.cross_entropy(given.transpose(1, 2), labels.masked_fill(~held, _IGNORED), reduction="none")
    return surprise.masked_fill(~held, torch.nan)
