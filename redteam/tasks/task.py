"""What the evaluation asks of a task, whatever kind it is."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from typing import TYPE_CHECKING, Any, Literal, Protocol

import numpy as np
import torch

from redteam.checkpoint.placed import device_of
from redteam.memory import room

if TYPE_CHECKING:
    from torch import nn

Split = Literal["train", "validation", "test"]
Batch = tuple[dict[str, torch.Tensor], torch.Tensor]
Scores = np.ndarray[Any, Any]
"""One result per sample, `[n]`: bool, or float64 where right and wrong are not all there is."""
Reading = Callable[[dict[str, torch.Tensor], torch.Tensor, torch.Tensor], torch.Tensor]
"""What is kept of a batch: the batch, its logits, and which inputs are in it → one row for each of them."""

_ROWS = 256  # inputs to a forward pass; fixed, because it can change the last bits of a logit
_LOGITS = 2**26  # numbers in the logits of a forward pass, where every token has a row of them
_PER_LOGIT = 24  # bytes: as given, in float32, exponentials of it and their logarithms
_PER_STATE = 8  # bytes of a number between two layers, in the widest dtype


class Task(Protocol):
    """What the evaluation asks of a task."""

    @property
    def name(self) -> str:
        """What the task is called."""

    @property
    def chance(self) -> float:
        """The mean score of whoever has learned nothing: n = (score − chance) ÷ (what the expert has − chance)."""

    def scores(self, module: nn.Module, split: Split = "test") -> Scores:
        """One result per sample; more is better."""

    def figures(self, module: nn.Module, split: Split = "test") -> Mapping[str, Scores]:
        """All that is counted of what a network does, by name, one result per sample each; the score comes first.

        Where there is more than the score, all are shares between 0 and 1, and stand beside the verdict.
        """

    def held(self, module: nn.Module, split: Split = "test") -> Scores:
        """What a network has of the task in it, shown or not, one result per sample: what n is a share of."""

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

    def answered(part: dict[str, torch.Tensor], logits: torch.Tensor, _: torch.Tensor) -> torch.Tensor:
        last = logits if logits.ndim == 2 else at_the_end(logits, part.get("attention_mask"))
        best = last.argmax(-1)
        best[~last.isfinite().all(-1)] = -1
        return best

    found: np.ndarray[Any, np.dtype[np.int64]] = forward(module, inputs, answered).numpy()
    return found


def forward(module: nn.Module, inputs: Mapping[str, torch.Tensor], read: Reading) -> torch.Tensor:
    """What is read from the logits of every input, `[n, …]`, in the order of the inputs and on the CPU.

    They go through the network in batches of a fixed size, those of about one length together, so that it computes
    little padding.

    Args:
        module: The network.
        inputs: Its keyword arguments, each `[n, …]`.
        read: Is given a batch and its logits, where the network is, and which of the inputs are in it, int64 `[rows]`
            on the CPU; returns `[rows, …]`.
    """
    device = device_of(module)
    n = len(next(iter(inputs.values())))
    lengths = lengths_of(inputs)
    order = torch.arange(n) if lengths is None else lengths.argsort(stable=True)
    found = []
    with torch.inference_mode():
        for rows in order.split(rows_at_once(module, inputs)):
            used = trimmed({key: value[rows] for key, value in inputs.items()})
            used = {key: value.to(device) for key, value in used.items()}
            found.append(read(used, module(**used).logits, rows).cpu())
        together = torch.cat(found)
        return together if lengths is None else together[order.argsort()]


def batched(inputs: Mapping[str, torch.Tensor], rows: int = _ROWS) -> Iterator[dict[str, torch.Tensor]]:
    """Inputs in order, so many at a time."""
    for start in range(0, len(next(iter(inputs.values()))), rows):
        yield {key: value[start : start + rows] for key, value in inputs.items()}


def lengths_of(inputs: Mapping[str, torch.Tensor]) -> torch.Tensor | None:
    """How many tokens each input has up to its padding at the end, int64 `[n]`, where an attention mask says so."""
    mask = inputs.get("attention_mask")
    if mask is None or mask.ndim != 2:
        return None
    return ((mask != 0) * torch.arange(1, mask.shape[1] + 1, device=mask.device)).amax(1).cpu()


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
    mask = mask.to(logits.device)
    places = torch.arange(mask.shape[1], device=mask.device) * (mask != 0)
    return logits[torch.arange(len(logits), device=logits.device), places.argmax(-1)]


def rows_at_once(module: nn.Module, inputs: Mapping[str, torch.Tensor]) -> int:
    """How many inputs go through the network at once; fewer only where the run may not take the memory for so many."""
    tokens = inputs.get("input_ids")
    head: Any = getattr(module, "get_output_embeddings", lambda: None)()
    vocabulary = 0 if tokens is None or getattr(head, "weight", None) is None else int(head.weight.shape[0])
    rows = min(_ROWS, _LOGITS // (int(tokens.shape[1]) * vocabulary)) if tokens is not None and vocabulary else _ROWS
    allowed = room()
    if allowed is not None:
        rows = min(rows, allowed.forward // bytes_of_a_row(getattr(module, "config", None), inputs, vocabulary))
    return max(1, rows)


def bytes_of_a_row(config: Any, inputs: Mapping[str, torch.Tensor], vocabulary: int) -> int:
    """About what one input takes on its way through a network.

    Args:
        config: The network's, as an object; what it doesn't say counts for nothing.
        inputs: What the network is given.
        vocabulary: How many logits every token has; 0 where they are few.
    """
    told = getattr(config, "get_text_config", lambda: config)() if "input_ids" in inputs else config
    config = getattr(told, "vision_config", told) if "pixel_values" in inputs else told
    width, layers = int(getattr(config, "hidden_size", 0) or 0), int(getattr(config, "num_hidden_layers", 0) or 0)
    inner = int(getattr(config, "intermediate_size", 0) or 4 * width)
    given = next(iter(inputs.values())) if "input_ids" not in inputs else inputs["input_ids"]
    tokens = int(given.shape[1]) if "input_ids" in inputs else _patches(config, given)
    return max(1, tokens * (_PER_LOGIT * vocabulary + _PER_STATE * (8 * width + 3 * inner) + 8 * layers * width))


def _patches(config: Any, pixels: torch.Tensor) -> int:
    """How many tokens a picture has."""
    side = getattr(config, "patch_size", None)
    side = side if isinstance(side, int) and side > 0 else 16
    return 1 + int(pixels.shape[-1]) * int(pixels.shape[-2]) // side**2 if pixels.ndim > 2 else int(pixels.shape[-1])
