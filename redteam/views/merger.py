"""What a merger sees."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import numpy as np
import torch

from redteam.anatomy.alike import finite
from redteam.checkpoint import Checkpoint, shared_tensors
from redteam.errors import BadInput, ThreatModelViolation
from redteam.key import Key
from redteam.plugins.contracts import Needs
from redteam.tasks import Batch, Task
from redteam.views.given import granted

if TYPE_CHECKING:
    from torch import nn


@dataclass
class MergerView:
    """What a merger sees: the experts that the free-rider has collected, and the base.

    Attributes:
        experts: Task → expert, in the scenario's order. Their tensors raise BadInput when they are read and hold NaN or
            infinity that the base has not.
        needs_base: Whether the merger has declared that it starts from the base.
        needs: What the merger has declared that it takes of every expert's task.
        labels: Labelled samples of the victim's task that it has seen.
    """

    experts: Mapping[str, Checkpoint]
    _base: Checkpoint = field(repr=False)
    stream: Key = field(repr=False)
    needs_base: bool = True
    needs: Needs = Needs.NONE
    labels: int = 0
    _tasks: Mapping[str, Task] = field(default_factory=dict, repr=False)
    _victim: str = ""
    _owner: Key | None = field(default=None, repr=False)
    _most: int | None = None

    def __post_init__(self) -> None:
        self.experts = {task: finite(one, self._base, f"The expert {task}") for task, one in self.experts.items()}

    @property
    def base(self) -> Checkpoint:
        """The public model; not for mergers that declare that they need none."""
        if not self.needs_base:
            raise ThreatModelViolation("view.base was asked for by a merger that declares needs_base=False; drop that.")
        return self._base

    def shared(self) -> Iterator[tuple[str, list[Checkpoint]]]:
        """Every tensor that can be merged, in order of its name, with the experts that have it in the base's shape.

        Where a defense changed the shape of an expert's tensor, the others are merged without it. Whole numbers, as of
        positions and steps, are no weights and stay the base's.

        Raises:
            BadInput: If there is none.
        """
        holders: dict[str, list[Checkpoint]] = {}
        for expert in self.experts.values():
            for name in shared_tensors(expert, self._base):
                if expert.dtype(name).is_floating_point and self._base.dtype(name).is_floating_point:
                    holders.setdefault(name, []).append(expert)
        if not holders:
            raise BadInput(
                f"There is nothing to merge: no expert ({', '.join(self.experts)}) has a tensor of a name and a shape "
                "of the base's; check that they belong together."
            )
        yield from sorted(holders.items())

    def samples(self, task: str, count: int) -> Batch:
        """Labelled samples of an expert's task, at most `count`; none of them is scored or chosen by.

        Of the attacker's own tasks they are validation data, of the victim's the first that a threat model grants.
        """
        self._require(Needs.SAMPLES, f"samples({task!r}, {count})")
        batch = self._data(task, count)
        if task == self._victim:
            self.labels = max(self.labels, len(batch[1]))
        return batch

    def inputs(self, task: str, count: int) -> dict[str, torch.Tensor]:
        """The same without labels."""
        self._require(Needs.INPUTS | Needs.SAMPLES, f"inputs({task!r}, {count})")
        return self._data(task, count)[0]

    def loss(self, task: str, module: nn.Module, batch: Batch) -> torch.Tensor:
        """The training loss of an expert's task, a scalar."""
        self._require(Needs.SAMPLES, f"loss({task!r}, …)")
        return self._tasks[task].loss(module, batch)

    def generator(self, tag: str) -> np.random.Generator:
        """A random stream of this merge, the same in every run."""
        return self.stream.generator(tag)

    def _data(self, task: str, count: int) -> Batch:
        if self._most is not None and count > self._most:
            raise ThreatModelViolation(
                f"A merger asked for {count} samples of {task}, and its setting `samples`, by which data are granted, "
                f"says {self._most}; ask for no more."
            )
        if task == self._victim and self._owner is not None:
            return granted(self._tasks[task], count, self._owner)
        return next(self._tasks[task].batches("validation", count, self.generator(f"own/{task}")))

    def _require(self, needs: Needs, asked: str) -> None:
        if not needs & self.needs:
            raise ThreatModelViolation(
                f"view.{asked} was asked for by a merger that does not declare it; add needs=Needs.INPUTS or "
                "Needs.SAMPLES and a setting `samples`."
            )
        if not self._tasks:
            raise BadInput("This merger takes data of the experts' tasks, and there are none here; merge in a run.")
