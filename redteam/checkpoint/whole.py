"""A merge that keeps every expert whole: no single checkpoint, but a network for each task, from what is stored."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

from redteam.checkpoint.checkpoint import Checkpoint
from redteam.checkpoint.modules import plain_parameters

if TYPE_CHECKING:
    from torch import nn


@dataclass(frozen=True)
class Whole:
    """What a merger that declares `whole=True` returns.

    Attributes:
        of: Task → the checkpoint that runs on it, in the base's layout, computed when it is read. It takes any task: of
            one that no expert was given for, it is what is left to run there.
        nbytes: What has to be stored to run on every task, the base with it and the tasks' own heads without; a mask
            takes a bit for each entry. `None` where the network that `rewire` leaves holds all of it.
        rewire: Changes, in place, the network built of such a checkpoint under the head of its task: where weights do
            not say all that a network computes, as where inputs are routed. It is given the network, and the name of
            each tensor → the parameter that is this tensor, as it is.
    """

    of: Callable[[str], Checkpoint]
    nbytes: int | None
    rewire: Callable[[nn.Module, Mapping[str, str]], None] | None = None

    def network(self, dressed: Checkpoint) -> nn.Module:
        """The network of a task, in evaluation mode.

        Args:
            dressed: What `of` gives for the task, with the task's own tensors.
        """
        network = dressed.module()
        if self.rewire is not None:
            self.rewire(network, plain_parameters(dressed))
        return network
