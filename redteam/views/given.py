"""What views hand out and count."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING

import torch

from redteam.checkpoint import Checkpoint
from redteam.key import Key
from redteam.tasks import Batch, Task, batched

if TYPE_CHECKING:
    from torch import nn


@dataclass
class Meter:
    """What a plugin has used up.

    Attributes:
        labels: Labelled samples of the victim's task that an attack has seen.
        steps: Optimizer steps.
        queries: Inputs that the protected model has answered to an attack.
    """

    labels: int = 0
    steps: int = 0
    queries: int = 0

    def stepping(self, count: int) -> Iterator[int]:
        """Counts 0 to `count` − 1 and meters each as one optimizer step."""
        for index in range(count):
            self.steps += 1
            yield index


class Oracle:
    """Answers for a model whose weights nobody sees.

    Args:
        checkpoint: The model; its network is built when it is first asked.
    """

    def __init__(self, checkpoint: Checkpoint) -> None:
        self._checkpoint = checkpoint

    def __call__(self, inputs: Mapping[str, torch.Tensor]) -> torch.Tensor:
        """Its logits, float32 `[n, …, classes]`."""
        # Not in inference mode: what is learned from the answers needs them in a graph.
        with torch.no_grad():
            return torch.cat([self._network(**part).logits for part in batched(inputs)])

    @cached_property
    def _network(self) -> nn.Module:
        return self._checkpoint.module(torch.float32)


def granted(task: Task, count: int, owner: Key) -> Batch:
    """The first `count` samples of the victim's task that any threat model grants, always in one order."""
    return next(task.batches("train", count, owner.generator("samples of the victim's task")))
