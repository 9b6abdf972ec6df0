"""Multiple choice by log-likelihood: of a prompt's continuations, the one that a causal model finds likeliest."""

from __future__ import annotations

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

IGNORED = -100
"""Padding among the tokens of choices."""
RIGHT, WRONG, MISSING = 1, 0, -1
"""What the first number of a choice says of it; a sample with fewer choices than others has missing ones."""


@dataclass(frozen=True)
class MultipleChoice(Samples):
    """Prompts with choices, of which the one with the largest log p(choice | prompt), summed over its tokens, is taken.

    Attributes:
        name: What the task is called.
        chance: The mean of 1 ÷ the number of choices.
        inputs: Split → `input_ids` and `attention_mask` of the prompts, int64 `[n, tokens]`, padded behind.
        labels: Split → int64 `[n, choices, 1 + tokens]`: `RIGHT`, `WRONG` or `MISSING`, then the choice's tokens,
            padded behind with `IGNORED`.
    """

    def scores(self, module: nn.Module, split: Split = "test") -> Scores:
        """Whether the right choice is the likeliest, bool `[n]`; a likelihood that is not finite counts as wrong."""
        chosen = torch.from_numpy(self.predictions(module, split))
        right = self.labels[split][torch.arange(len(chosen)), chosen.clamp_min(0), 0] == RIGHT
        found: Scores = (right & (chosen >= 0)).numpy()
        return found

    def predictions(self, module: nn.Module, split: Split) -> np.ndarray[Any, np.dtype[np.int64]]:
        """The place of the likeliest choice, int64 `[n]`; -1 where a likelihood is not finite."""
        labels = self.labels[split]
        likely = log_likelihoods(module, self.inputs[split], labels[..., 1:])
        there = labels[..., 0] != MISSING
        best = likely.masked_fill(~there, -torch.inf).argmax(1)
        best[~(likely.isfinite() | ~there).all(1)] = -1
        return best.numpy()

    def loss(self, module: nn.Module, batch: Batch) -> torch.Tensor:
        """The mean cross-entropy of the right choices' tokens, given the prompts."""
        inputs, labels = batch
        right = labels[torch.arange(len(labels)), (labels[..., 0] == RIGHT).int().argmax(1), 1:]
        given, targets = continued(inputs, right)
        return -_likely(module(**given).logits, targets).sum() / (right != IGNORED).sum()


def log_likelihoods(module: nn.Module, inputs: Mapping[str, torch.Tensor], choices: torch.Tensor) -> torch.Tensor:
    """log p(choice | prompt), summed over the choice's tokens, float64 `[n, choices]`, in nats.

    Args:
        module: A causal language model.
        inputs: `input_ids` and `attention_mask` of the prompts, `[n, tokens]`, padded behind.
        choices: int64 `[n, choices, tokens]`, padded behind with `IGNORED`.
    """
    n, count, _ = choices.shape
    repeated = {name: inputs[name].repeat_interleave(count, 0) for name in ("input_ids", "attention_mask")}
    given, targets = continued(repeated, choices.flatten(0, 1))
    return forward(module, given, lambda _, logits, rows: _likely(logits, targets[rows]).double().cpu()).reshape(
        n, count
    )


def continued(inputs: Mapping[str, torch.Tensor], behind: torch.Tensor) -> tuple[dict[str, torch.Tensor], torch.Tensor]:
    """Prompts with tokens written behind them, as a network takes them, and where those tokens are.

    Args:
        inputs: `input_ids` and `attention_mask`, int64 `[n, tokens]`, padded behind.
        behind: int64 `[n, further]`, padded behind with `IGNORED`.

    Returns:
        The inputs, `[n, width]`, and what of them was written, int64 `[n, width]`, `IGNORED` elsewhere.
    """
    ids, lengths = inputs["input_ids"], inputs["attention_mask"].sum(1)
    held = behind != IGNORED
    width = int((lengths + held.sum(1)).max())
    room = ids.shape[1] + behind.shape[1]
    places = lengths[:, None] + torch.arange(behind.shape[1], device=ids.device)
    targets = ids.new_full((len(ids), room), IGNORED).scatter(1, places, behind)
    together = F.pad(ids, (0, behind.shape[1]))
    together = torch.where(targets == IGNORED, together, targets)[:, :width]
    mask = torch.arange(width, device=ids.device) < (lengths + held.sum(1))[:, None]
    return {"input_ids": together * mask, "attention_mask": mask.long()}, targets[:, :width]


def _likely(logits: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
    """The log-likelihood of the targets that are not ignored, summed, `[n]`."""
    given, sought = logits[:, :-1].float().transpose(1, 2), targets[:, 1 : logits.shape[1]].to(logits.device)
    return -F.cross_entropy(given, sought, reduction="none", ignore_index=IGNORED).sum(1)
