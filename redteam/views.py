"""What a plugin gets to see. Views prevent mistakes, not malice: plugins are trusted code.

Scoring data never reach a plugin. Asking for more than the threat model grants raises `ThreatModelViolation`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import TYPE_CHECKING, TypeVar

import numpy as np
import torch

from redteam.anatomy.alike import finite
from redteam.checkpoint import Checkpoint, shared_tensors
from redteam.errors import BadInput, ThreatModelViolation
from redteam.key import Key
from redteam.plugins.contracts import Needs
from redteam.symmetry import Group, Lock, Reversible, sampled_locks
from redteam.tasks import Batch, Task, batched
from redteam.threat import ThreatModel, threat_model

if TYPE_CHECKING:
    from torch import nn

T = TypeVar("T")
_ALL = 2**62


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


def granted(task: Task, count: int, owner: Key) -> Batch:
    """The first `count` samples of the victim's task that any threat model grants, always in one order."""
    return next(task.batches("train", count, owner.generator("samples of the victim's task")))


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
