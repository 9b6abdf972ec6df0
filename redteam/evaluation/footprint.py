"""What a scenario's models and data come to, and what follows from that: memory for a computation, and its seconds."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

from redteam.errors import BadInput
from redteam.memory import Room, shown

if TYPE_CHECKING:
    from redteam.evaluation.steps import Scored
    from redteam.tasks import Scenario

PROGRAM = 1_000_000_000
"""Bytes that the program takes before it holds a model: the process that plans and the one that workers are forked
from, with torch and transformers."""
WORKER = 150_000_000
"""Bytes that a worker takes beside what it computes with."""
_WIDE = 24  # bytes for each weight of the largest block: a lock or a fit of it in float64
_MERGED = 12  # bytes for each weight of the largest table: as base, experts and merge have it; no network is there then


@dataclass(frozen=True)
class Footprint:
    """The size of a scenario.

    Attributes:
        weights: Of the largest model.
        nbytes: Of the largest model, as it is stored.
        block: Weights of its largest block.
        table: Weights of its largest matrix.
        row: Bytes of one input on its way through the network.
        victim: The victim's task.
        items: Task → split → how many items.
    """

    weights: int
    nbytes: int
    block: int
    table: int
    row: int
    victim: str
    items: Mapping[str, Mapping[str, int]]

    @classmethod
    def of(cls, scenario: Scenario) -> Footprint:
        """Of a scenario; no tensor of a model is read."""
        from redteam.checkpoint.streamed import largest_group

        models = [scenario.base, *scenario.experts.values()]
        tables = (math.prod(one.shape(name)) for one in models for name in one if len(one.shape(name)) == 2)
        splits: Any = ("train", "validation", "test")
        return cls(
            weights=max(one.weights for one in models),
            nbytes=max(one.nbytes for one in models),
            block=max(largest_group(one) for one in models),
            table=max(tables, default=0),
            row=max(_row(scenario, task) for task in scenario.tasks),
            victim=scenario.victim,
            items={
                name: {split: len(next(iter(task.inputs_of(split).values()))) for split in splits}
                for name, task in scenario.tasks.items()
            },
        )

    @property
    def still(self) -> int:
        """Bytes of a network and of a block of it that is worked on."""
        return self.nbytes + _WIDE * self.block

    @property
    def least(self) -> int:
        """Bytes without which nothing can be computed: the network, a block of it, one input; or a table's merge."""
        return max(self.still + self.row, _MERGED * self.table)

    @property
    def training(self) -> int:
        """Bytes that training such a network takes."""
        from redteam.training import BYTES

        return BYTES * self.weights

    def seconds(self, item: float, wide: float, merge: float = 0.0) -> dict[str, float]:
        """Kind of step → CPU seconds; of locks and attacks without what they compute themselves.

        Args:
            item: Seconds for scoring one item of one task.
            wide: Seconds for scoring one of the victim's in every dtype to which it is rounded, computed in float32.
            merge: Seconds for merging.
        """
        from redteam.evaluation.metrics import PROBES

        tested = sum(counts["test"] for counts in self.items.values())
        compared = 2 * wide * PROBES * (len(self.items) - 1)  # before and after, in float64
        return {
            "alone": item * (2 * tested + 1.5 * self._held) + wide * self.items[self.victim]["test"],
            "try": merge + item * self._held,
            "tune": 0.0,
            "lock": merge + wide * self.items[self.victim]["test"] + compared,
            "attack": merge + compared,
            "merge": merge + item * (tested + 0.5 * self._held),
        }

    def measured(self, alone: Scored) -> dict[str, float]:
        """`seconds`, from those that scoring base and experts took."""
        tested = sum(counts["test"] for counts in self.items.values())
        item = (alone.seconds - alone.stored_seconds) / (2 * tested + 1.5 * self._held)
        return self.seconds(item, alone.stored_seconds / self.items[self.victim]["test"])

    @property
    def _held(self) -> int:
        return sum(counts["validation"] for name, counts in self.items.items() if name != self.victim)


@dataclass(frozen=True)
class Budget:
    """How a run keeps within its memory.

    Attributes:
        workers: How many processes compute at once; 0 for the one that plans.
        room: What each computation may take.
    """

    workers: int
    room: Room

    @classmethod
    def of(cls, limit: int, footprints: Mapping[str, Footprint], workers: int) -> Budget:
        """As many workers as fit.

        Args:
            limit: Bytes for all processes together.
            footprints: Scenario → its size.
            workers: How many are wanted; 0 for the process that plans.

        Raises:
            BadInput: If not even one computation fits.
        """
        largest = max(footprints, key=lambda name: footprints[name].least)
        needed, still = footprints[largest].least, max(one.still for one in footprints.values())
        free = limit - PROGRAM
        count = min(max(1, workers), free // (WORKER + needed))
        if count < 1:
            total = PROGRAM + WORKER + needed
            raise BadInput(
                f"{largest} takes at least {shown(total)} of memory ({shown(needed)} for its models, "
                f"the rest for the program), and --memory gives {limit / 1e9:g} GB; give it that much."
            )
        own = free // count - WORKER
        return cls(count if workers else 0, Room(own, own - still, limit - own))


def _row(scenario: Scenario, task: str) -> int:
    from redteam.checkpoint.known import completed
    from redteam.tasks.task import bytes_of_a_row

    expert = scenario.experts[task]
    config: Any = SimpleNamespace(**completed(expert.config))
    inputs = scenario.tasks[task].inputs_of("test")
    return bytes_of_a_row(config, inputs, int(getattr(config, "vocab_size", 0) or 0) if _writes(expert.config) else 0)


def _writes(config: Mapping[str, Any]) -> bool:
    """Whether a network has logits for every token."""
    from redteam.checkpoint.tensors import classes_of

    return any(name.endswith(("LMHeadModel", "ForCausalLM", "ForMaskedLM")) for name in classes_of(config))
