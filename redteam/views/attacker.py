"""What an attack sees."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, TypeVar

import numpy as np
import torch

from redteam.checkpoint import Checkpoint
from redteam.errors import BadInput, ThreatModelViolation
from redteam.key import Key
from redteam.plugins.contracts import Needs
from redteam.tasks import Batch, Task
from redteam.threat import ThreatModel, threat_model
from redteam.views.given import Meter, granted

if TYPE_CHECKING:
    from torch import nn

T = TypeVar("T")
_ALL = 2**62


@dataclass
class AttackerView:
    """What an attack sees: what its threat model grants and the attack has declared that it needs.

    Attributes:
        protected: The published, protected model; for an attack that asks for `Needs.OUTPUTS` what everybody knows of
            it: the base under the victim's head.
        threat: What else is granted.
        needs: What the attack declares; all that is granted by default.
        meter: What was used.
    """

    protected: Checkpoint
    threat: ThreatModel
    stream: Key = field(repr=False)
    needs: Needs = ~Needs.NONE
    meter: Meter = field(default_factory=Meter)
    _anchor: Checkpoint | None = field(default=None, repr=False)
    _companions: Mapping[str, Checkpoint] = field(default_factory=dict, repr=False)
    _own: Mapping[str, Task] = field(default_factory=dict, repr=False)
    _key: Key | None = field(default=None, repr=False)
    _unlock: Callable[[Checkpoint, Key], Checkpoint] | None = field(default=None, repr=False)
    _releases: Sequence[Checkpoint] = field(default=(), repr=False)
    _siblings: Mapping[str, Checkpoint] = field(default_factory=dict, repr=False)
    _task: Task | None = field(default=None, repr=False)
    _owner: Key | None = field(default=None, repr=False)
    _oracle: Callable[[Mapping[str, torch.Tensor]], torch.Tensor] | None = field(default=None, repr=False)

    @classmethod
    def by_hand(
        cls, protected: Checkpoint, *, anchor: Checkpoint | None = None, threat: str = "weights-only", seed: int = 0
    ) -> AttackerView:
        """A view of two checkpoints, to call an attack on them from Python.

        Args:
            protected: The published model.
            anchor: The public base.
            threat: The threat model, as written in plans.
            seed: Of the attack's random streams.

        Raises:
            UnknownName: If there is no such threat model.
        """
        return cls(protected, threat_model(threat), Key.derive(seed=seed, index=0, name="by hand"), _anchor=anchor)

    @property
    def anchor(self) -> Checkpoint:
        """A checkpoint in the basis from before the lock: the public base, or what the attacker has in its place."""
        self._require(Needs.ANCHOR, "the public base", "anchor")
        return self._given(self._anchor, "anchor")

    @property
    def companions(self) -> Mapping[str, Checkpoint]:
        """The experts that the attacker owns, by task."""
        self._require(Needs.COMPANIONS, "the companions", "companions")
        return self._companions

    @property
    def key(self) -> Key:
        """The defender's key."""
        self._require(Needs.KEY, "the defender's key", "key")
        return self._given(self._key, "key")

    @property
    def releases(self) -> Sequence[Checkpoint]:
        """Releases of the same victim under independent keys, the one that is attacked first."""
        self._require(Needs.RELEASES, "further releases of the victim", "releases")
        return (self.protected, *self._releases)

    @property
    def siblings(self) -> Mapping[str, Checkpoint]:
        """Task → the attacker's own expert (`companions`) as the victim's defense publishes it, under its key."""
        self._require(Needs.SIBLINGS, "the attacker's own experts under the victim's defense", "siblings")
        return self._siblings

    def own_batches(self, task: str, size: int) -> Iterator[Batch]:
        """Labelled validation data of one of the attacker's own tasks: the half that results are not chosen by."""
        self._require(Needs.COMPANIONS, "data of the attacker's own tasks", "own_batches")
        return self._own[task].batches("validation", size, self.generator(f"own/{task}"))

    def own_inputs(self, task: str, count: int) -> dict[str, torch.Tensor]:
        """The first `count` of the inputs that one of the attacker's own experts was trained on, in random order.

        Fewer are always the beginning of more.
        """
        self._require(Needs.COMPANIONS, "data of the attacker's own tasks", "own_inputs")
        inputs = self._own[task].inputs_of("train")
        order = self.generator(f"own inputs/{task}").permutation(len(next(iter(inputs.values()))))
        rows = torch.from_numpy(order[:count])
        return {name: value[rows] for name, value in inputs.items()}

    def own_loss(self, task: str, module: nn.Module, batch: Batch) -> torch.Tensor:
        """The training loss of one of the attacker's own tasks, a scalar."""
        self._require(Needs.COMPANIONS, "the loss on the attacker's own tasks", "own_loss")
        return self._own[task].loss(module, batch)

    def samples(self, count: int | None = None) -> Batch:
        """Labelled samples of the victim's task: the first `count` of those granted, all of them by default.

        Fewer are always the beginning of more, and none of them is scored on.
        """
        self._require(Needs.SAMPLES, "labelled samples of the victim's task", "samples")
        batch = self._data(count)
        self.meter.labels = max(self.meter.labels, len(batch[1]))
        return batch

    def inputs(self, count: int | None = None) -> dict[str, torch.Tensor]:
        """The same samples without their labels."""
        self._require(Needs.INPUTS, "inputs of the victim's task", "inputs")
        return self._data(count)[0]

    def loss(self, module: nn.Module, batch: Batch) -> torch.Tensor:
        """The training loss of the victim's task, a scalar."""
        self._require(Needs.SAMPLES, "the loss on the victim's task", "loss")
        return self._given(self._task, "loss").loss(module, batch)

    @property
    def queries(self) -> int | None:
        """How many more inputs the protected model will answer; `None` for any number."""
        return None if self.threat.queries is None else max(0, self.threat.queries - self.meter.queries)

    def answers(self, inputs: Mapping[str, torch.Tensor]) -> torch.Tensor:
        """The protected model's logits for inputs of the attacker's own, float32 `[n, …, classes]`.

        Raises:
            ThreatModelViolation: If more is asked than the threat model grants.
        """
        self._require(Needs.OUTPUTS, "the protected model's answers", "answers")
        count, left = len(next(iter(inputs.values()))), self.queries
        if left is not None and count > left:
            raise ThreatModelViolation(
                f"view.answers was asked for {count} answers and {left} are left of the {self.threat.queries} that "
                f"threat model '{self.threat.name}' grants; ask for view.queries at most."
            )
        self.meter.queries += count
        return self._given(self._oracle, "answers")(inputs)

    def unlock(self, key: Key) -> Checkpoint:
        """The protected model with the defense's own code run backwards under `key`, right or wrong."""
        self._require(Needs.CODE, "the defense's code", "unlock")
        return self._given(self._unlock, "unlock")(self.protected, key)

    def steps(self, count: int) -> Iterator[int]:
        """Counts 0 to `count` − 1 and meters each as one optimizer step."""
        return self.meter.stepping(count)

    def generator(self, tag: str) -> np.random.Generator:
        """A random stream of this attack, the same in every run."""
        return self.stream.generator(tag)

    def _data(self, count: int | None) -> Batch:
        limits = [limit for limit in (count, self.threat.labels) if limit is not None]
        owner = self._given(self._owner, "samples")
        return granted(self._given(self._task, "samples"), min(limits, default=_ALL), owner)

    def _require(self, need: Needs, what: str, attribute: str) -> None:
        if need not in self.threat.grants:
            raise ThreatModelViolation(
                f"view.{attribute} asks for {what}, which threat model '{self.threat.name}' does not grant; declare "
                f"needs=Needs.{need.name} so that the attack is planned only where it is granted."
            )
        if need not in self.needs:
            raise ThreatModelViolation(
                f"view.{attribute} asks for {what}, which the attack does not declare; add Needs.{need.name} to its "
                "needs."
            )

    def _given(self, value: T | None, attribute: str) -> T:
        if value is None:
            raise BadInput(f"view.{attribute} was asked for and this view was made without it; pass it when making it.")
        return value
