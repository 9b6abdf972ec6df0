"""What a plugin gets to see. Views prevent mistakes, not malice: plugins are trusted code.

Scoring data never reach a plugin. Asking for more than the threat model grants raises `ThreatModelViolation`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import numpy as np
import torch

from redteam.checkpoint import Checkpoint
from redteam.errors import ThreatModelViolation
from redteam.key import Key
from redteam.plugins.contracts import Needs
from redteam.symmetry import Group, Lock, sampled_locks
from redteam.tasks import Batch, Task
from redteam.threat import ThreatModel

if TYPE_CHECKING:
    from torch import nn


@dataclass
class DefenderView:
    """What a defense sees: its own model, its own data, its own key.

    Attributes:
        victim: The expert to be protected.
        base: The public model it was fine-tuned from.
        key: The secret; nothing derived from it may be written beside the weights.
    """

    victim: Checkpoint
    base: Checkpoint
    key: Key
    task: Task | None = field(default=None, repr=False)
    locks: list[Lock] = field(default_factory=list, repr=False)

    def lock(self, kinds: Sequence[str], group: Group, *, checkpoint: Checkpoint | None = None) -> Checkpoint:
        """The victim with a fresh gauge from `group` at every site of these kinds, as a lazy overlay.

        Args:
            kinds: Kinds of sites, for example `("qk", "vo")`.
            group: From which each site draws, under its own stream of the key.
            checkpoint: What to lock, where a defense does several things in a row; the victim by default.

        Raises:
            IllegalGauge: If the architecture does not allow this group there.
        """
        checkpoint = self.victim if checkpoint is None else checkpoint
        turn = len(self.locks)
        drawn = sampled_locks(checkpoint, kinds, group, lambda label: self.key.generator(f"{turn}/{label}"))
        for lock in drawn:
            checkpoint = lock.put_on(checkpoint)
        self.locks.extend(drawn)
        return checkpoint

    def batches(self, size: int, tag: str = "batches") -> Iterator[Batch]:
        """One pass over the victim's training data in random order."""
        return self._task().batches("train", size, self.generator(tag))

    def loss(self, module: nn.Module, batch: Batch) -> torch.Tensor:
        """The victim's training loss."""
        return self._task().loss(module, batch)

    def generator(self, tag: str) -> np.random.Generator:
        """A random stream of this key."""
        return self.key.generator(f"view/{tag}")

    def _task(self) -> Task:
        if self.task is None:
            raise ThreatModelViolation(
                "This defense asks for training data and none was given; name a scenario that has some."
            )
        return self.task


def unlocked(
    checkpoint: Checkpoint, defend: Callable[[DefenderView], Checkpoint], base: Checkpoint, key: Key
) -> Checkpoint:
    """Takes off what `defend` would have put on under `key`: its locks inverted, the last one first."""
    view = DefenderView(checkpoint, base, key)
    defend(view)
    for lock in reversed(view.locks):
        checkpoint = lock.take_off(checkpoint)
    return checkpoint


@dataclass
class Meter:
    """What an attack has used up."""

    samples: int = 0


@dataclass
class AttackerView:
    """What an attack sees.

    Attributes:
        protected: The published, protected model.
        threat: What else is granted.
        meter: What was used.
    """

    protected: Checkpoint
    threat: ThreatModel
    stream: Key = field(repr=False)
    meter: Meter = field(default_factory=Meter)
    _anchor: Checkpoint | None = field(default=None, repr=False)
    _companions: Mapping[str, Checkpoint] = field(default_factory=dict, repr=False)
    _own: Mapping[str, Task] = field(default_factory=dict, repr=False)
    _key: Key | None = field(default=None, repr=False)
    _unlock: Callable[[Checkpoint, Key], Checkpoint] | None = field(default=None, repr=False)

    @property
    def anchor(self) -> Checkpoint:
        """A checkpoint in the basis from before the lock: the public base."""
        self._require(Needs.ANCHOR, "the public base", "anchor")
        assert self._anchor is not None
        return self._anchor

    @property
    def companions(self) -> Mapping[str, Checkpoint]:
        """The experts that the attacker owns, by task."""
        self._require(Needs.COMPANIONS, "the companions", "companions")
        return self._companions

    @property
    def key(self) -> Key:
        """The defender's key."""
        self._require(Needs.KEY, "the defender's key", "key")
        assert self._key is not None
        return self._key

    def own_batches(self, task: str, size: int) -> Iterator[Batch]:
        """Labelled validation data of one of the attacker's own tasks."""
        self._require(Needs.COMPANIONS, "data of the attacker's own tasks", "own_batches")
        return self._own[task].batches("validation", size, self.generator(f"own/{task}"))

    def unlock(self, key: Key) -> Checkpoint:
        """The protected model with the defense's own code run backwards under `key`, right or wrong."""
        self._require(Needs.CODE, "the defense's code", "unlock")
        assert self._unlock is not None
        return self._unlock(self.protected, key)

    def generator(self, tag: str) -> np.random.Generator:
        """A random stream of this attack, the same in every run."""
        return self.stream.generator(tag)

    def _require(self, need: Needs, what: str, attribute: str) -> None:
        if not self.threat.allows(need):
            raise ThreatModelViolation(
                f"view.{attribute} asks for {what}, which threat model '{self.threat.name}' does not grant; declare "
                f"needs=Needs.{need.name} so that the attack is planned only where it is granted."
            )


@dataclass
class MergerView:
    """What a merger sees: the experts that the free-rider has collected, and the base.

    Attributes:
        experts: Task → expert, in the scenario's order.
        base: The public model.
    """

    experts: Mapping[str, Checkpoint]
    base: Checkpoint
    stream: Key = field(repr=False)

    def generator(self, tag: str) -> np.random.Generator:
        """A random stream of this merge, the same in every run."""
        return self.stream.generator(tag)
