"""What a defense sees, and how what it put on is taken off again."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING

import numpy as np
import torch

from redteam.checkpoint import Checkpoint
from redteam.errors import BadInput, ThreatModelViolation
from redteam.key import Key
from redteam.symmetry import Group, Lock, Reversible, sampled_locks
from redteam.tasks import Batch, Task
from redteam.views.given import Meter

if TYPE_CHECKING:
    from torch import nn


@dataclass
class DefenderView:
    """What a defense sees: its own model, its own data, its own key.

    Attributes:
        victim: The expert to be protected.
        key: The secret; nothing derived from it may be written beside the weights.
        locks: What was put on, in this order, so that the key's holder can take it off.
        part: This defense's place in a chain, under which its key was drawn from the chain's; empty where it is alone.
        guessed: Whether the key is somebody's guess, which is then not exchanged for a published seed.
        meter: Counts the optimizer steps that its training takes.
    """

    victim: Checkpoint
    _base: Checkpoint | None = field(repr=False)
    key: Key
    task: Task | None = field(default=None, repr=False)
    locks: list[Reversible] = field(default_factory=list, repr=False)
    part: str = ""
    guessed: bool = False
    meter: Meter = field(default_factory=Meter, repr=False)

    @property
    def base(self) -> Checkpoint:
        """The public model that the victim was fine-tuned from."""
        if self._base is None:
            raise BadInput("This defense asks for the base and none was given; name the public model (--base).")
        return self._base

    def seeded(self, seed: int) -> DefenderView:
        """This view under a seed that the implementation fixes, in place of the owner's key.

        A guess at the key stays the guess that it is, so that only the right one counts (`Key.of_seed`).

        Args:
            seed: The same for every model that is protected so.
        """
        if self.guessed:
            return self
        key = Key.of_seed(seed)
        return replace(self, key=key.child(self.part) if self.part else key)

    def lock(
        self, kinds: Sequence[str], group: Group, *, checkpoint: Checkpoint | None = None, adapts: bool = False
    ) -> Checkpoint:
        """The victim with a fresh gauge from `group` at every site of these kinds, as a lazy overlay.

        Args:
            kinds: Kinds of sites, for example `("qk", "vo")`.
            group: From which each site draws, under its own stream of the key.
            checkpoint: What to lock, where a defense does several things in a row; the victim by default.
            adapts: Whether to take the largest legal part of the group where the whole of it would change the
                function; `adaptations` then says so, and the defense declares it.

        Raises:
            IllegalGauge: If the architecture does not allow this group there.
        """
        checkpoint = self.victim if checkpoint is None else checkpoint
        turn = len(self.locks)
        drawn = sampled_locks(
            checkpoint, kinds, group, lambda label: self.key.generator(f"{turn}/{label}"), adapts=adapts
        )
        for lock in drawn:
            checkpoint = lock.put_on(checkpoint)
        self.locks.extend(drawn)
        return checkpoint

    def adaptations(self) -> list[str]:
        """What the locks took in place of the group that was asked for, a sentence for each kind of site."""
        found = {
            (site.kind, lock.groups[site.label], lock.wanted): None
            for lock in self.locks
            if isinstance(lock, Lock)
            for site in lock.sites
            if lock.groups[site.label] != lock.wanted
        }
        return [f"{kind}: {group} in place of {wanted}, which is not legal there." for kind, group, wanted in found]

    def batches(self, size: int, tag: str = "batches") -> Iterator[Batch]:
        """One pass over the victim's training data in random order."""
        return self._task().batches("train", size, self.generator(tag))

    def loss(self, module: nn.Module, batch: Batch) -> torch.Tensor:
        """The victim's training loss."""
        return self._task().loss(module, batch)

    def steps(self, count: int) -> Iterator[int]:
        """Counts 0 to `count` − 1 and meters each as one optimizer step."""
        return self.meter.stepping(count)

    def generator(self, tag: str) -> np.random.Generator:
        """A random stream of this key."""
        return self.key.generator(f"view/{tag}")

    def _task(self) -> Task:
        if self.task is None:
            raise ThreatModelViolation(
                "This defense asks for training data and none was given; name a scenario that has some (--data)."
            )
        return self.task


def unlocked(
    checkpoint: Checkpoint,
    defend: Callable[[DefenderView], Checkpoint],
    base: Checkpoint | None,
    key: Key,
    *,
    part: str = "",
    guessed: bool = False,
    task: Task | None = None,
) -> Checkpoint:
    """Takes off what `defend` would have put on under `key`: its locks inverted, the last one first.

    Args:
        checkpoint: Protected by `defend`.
        defend: The defense.
        base: The public model, for defenses that ask for it.
        key: The owner's, or another.
        part: As in `DefenderView`.
        guessed: Whether the key is a guess rather than known to be the owner's.
        task: Training data, for defenses that train before they lock.
    """
    view = DefenderView(checkpoint, base, key, task, part=part, guessed=guessed)
    defend(view)
    for lock in reversed(view.locks):
        checkpoint = lock.take_off(checkpoint)
    return checkpoint
