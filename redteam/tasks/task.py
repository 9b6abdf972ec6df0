"""What the evaluation asks of a task, whatever kind it is."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Any, Literal, Protocol

import numpy as np
import torch

if TYPE_CHECKING:
    from torch import nn

Split = Literal["train", "validation", "test"]
Batch = tuple[dict[str, torch.Tensor], torch.Tensor]
Scores = np.ndarray[Any, Any]
"""One result per sample, `[n]`: bool, or float64 where right and wrong are not all there is."""

_ROWS = 256  # inputs to a forward pass; fixed, because it can change the last bits of a logit
_LOGITS = 2**26  # numbers in the logits of a forward pass, where every token has a row of them


class Task(Protocol):
    """What the evaluation asks of a task."""

    @property
    def name(self) -> str:
        """What the task is called."""

    @property
    def chance(self) -> float:
        """The mean score of whoever has learned nothing: n = (score − chance) ÷ (the expert's score − chance)."""

    def scores(self, module: nn.Module, split: Split = "test") -> Scores:
        """One result per sample; more is better."""

    def predictions(self, module: nn.Module, split: Split) -> np.ndarray[Any, np.dtype[np.int64]]:
        """One answer per sample, labels unused."""

    def inputs_of(self, split: Split) -> Mapping[str, torch.Tensor]:
        """The inputs of a split, as the network takes them."""

    def batches(self, split: Split, size: int, generator: np.random.Generator) -> Iterator[Batch]:
        """One pass over a split in random order."""

    def loss(self, module: nn.Module, batch: Batch) -> torch.Tensor:
        """The training loss of a batch, a scalar."""

    def part(self, split: Split, chosen: slice) -> Task:
        """The same with some of a split's samples."""

    def digest(self) -> str:
        """SHA-256 of the data."""


def halves(task: Task) -> tuple[Task, Task]:
    """A task with either half of its validation samples: one for attacks to use, one to look at what came of them.

    What an attack was tuned on says nothing of it any more.
    """
    middle = len(next(iter(task.inputs_of("validation").values()))) // 2
    return task.part("validation", slice(middle)), task.part("validation", slice(middle, None))


def answers(module: nn.Module, inputs: Mapping[str, torch.Tensor]) -> np.ndarray[Any, np.dtype[np.int64]]:
    """The class with the largest logit for every input, int64 `[n]`; -1 where a logit is not finite.

    Where every token has logits, the answer is the last token's: what would be written next.
    """
    found = []
    for part, logits in forward(module, inputs):
        last = logits if logits.ndim == 2 else at_the_end(logits, part.get("attention_mask"))
        best = last.argmax(-1)
        best[~last.isfinite().all(-1)] = -1
        found.append(best.cpu().numpy())
    return np.concatenate(found)


def forward(
    module: nn.Module, inputs: Mapping[str, torch.Tensor]
) -> Iterator[tuple[dict[str, torch.Tensor], torch.Tensor]]:
    """Inputs in order, in batches of a fixed size, each with the logits that the network gives for it."""
    with torch.inference_mode():
        for part in batched(inputs, rows_at_once(module, inputs)):
            used = trimmed(part)
            yield used, module(**used).logits


def batched(inputs: Mapping[str, torch.Tensor], rows: int = _ROWS) -> Iterator[dict[str, torch.Tensor]]:
    """Inputs in order, so many at a time."""
    for start in range(0, len(next(iter(inputs.values()))), rows):
        yield {key: value[start : start + rows] for key, value in inputs.items()}


def trimmed(inputs: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """Inputs without the columns at the end that are padding in every row, where an attention mask says so."""
    mask = inputs.get("attention_mask")
    if mask is None or mask.ndim != 2:
        return inputs
    used = mask.any(0).nonzero()
    width = int(used[-1]) + 1 if len(used) else mask.shape[1]
    return {key: value[:, :width] if value.shape[:2] == mask.shape else value for key, value in inputs.items()}


def at_the_end(logits: torch.Tensor, mask: torch.Tensor | None) -> torch.Tensor:
    """Of logits `[n, tokens, classes]` those of the last token that the mask `[n, tokens]` lets through."""
    if mask is None:
        return logits[:, -1]
    places = torch.arange(mask.shape[1], device=mask.device) * (mask != 0)
    return logits[torch.arange(len(logits), device=logits.device), places.argmax(-1)]


def rows_at_once(module: nn.Module, inputs: Mapping[str, torch.Tensor]) -> int:
    """How many inputs go through the network at once."""
    tokens = inputs.get("input_ids")
    head: Any = getattr(module, "get_output_embeddings", lambda: None)()
    if tokens is None or getattr(head, "weight", None) is None:
        return _ROWS
    return max(1, min(_ROWS, _LOGITS // (int(tokens.shape[1]) * int(head.weight.shape[0]))))
