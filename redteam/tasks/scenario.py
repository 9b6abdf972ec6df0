"""Scenarios: a base, its experts and their tasks, and which expert is to be protected."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass

from redteam.checkpoint import Checkpoint, shared_tensors
from redteam.tasks.task import Task


@dataclass(frozen=True)
class Scenario:
    """A base, experts fine-tuned from it, their tasks, and which of them is the victim.

    Attributes:
        name: What the scenario is called.
        seed: Which retraining of base and experts this is.
        base: The public model that all experts started from.
        experts: Task name → expert.
        tasks: Task name → task, the same names.
        victim: The task whose expert is protected.
        summary: One paragraph for the report.
    """

    name: str
    seed: int
    base: Checkpoint
    experts: Mapping[str, Checkpoint]
    tasks: Mapping[str, Task]
    victim: str
    summary: str = ""

    def __post_init__(self) -> None:
        """Gives all models the names that transformers saves them by, where they don't agree."""
        if any(name not in expert for expert in self.experts.values() for name in self.base):
            experts = {name: expert.canonical() for name, expert in self.experts.items()}
            object.__setattr__(self, "base", self.base.canonical())
            object.__setattr__(self, "experts", experts)

    @property
    def companions(self) -> tuple[str, ...]:
        """The tasks whose experts the free-rider owns."""
        return tuple(name for name in self.experts if name != self.victim)

    def dressed(self, shared: Checkpoint, task: str) -> Checkpoint:
        """The shared tensors of a merge (or of the base) with the task's own tensors, ready to run on `task`; lazy.

        Args:
            shared: A checkpoint from which the shared tensors are taken.
            task: Whose head to wear.
        """
        expert = self.experts[task]
        return expert.replace(shared.only(shared_tensors(expert, self.base)))

    def digest(self) -> str:
        """SHA-256 over the weights of base and experts and over the data: seeds that give the same are one seed."""
        digest = hashlib.sha256(f"{self.victim}\0{self.base.digest()}".encode())
        for name in sorted(self.experts):
            digest.update(f"\0{name}\0{self.experts[name].digest()}\0{self.tasks[name].digest()}".encode())
        return digest.hexdigest()
