"""The clauses that hold for attacks, defenses and mergers alike."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Hashable, Iterator
from typing import Any, Generic, TypeVar

import torch

from redteam.checkpoint import Checkpoint, not_finite
from redteam.errors import PluginFault, RedteamError, ThreatModelViolation
from redteam.plugins.contracts import Spec
from redteam.plugins.registry import LoadedPlugin
from redteam.plugins.returned import check_returned
from redteam.testing import elsewhere
from redteam.testing.outcome import Check, DoesNotApply, Fails
from redteam.testing.surroundings import other_random_states
from redteam.testing.toys import toy_architectures, toy_scenario
from redteam.testing.trial import Trial, told

S = TypeVar("S", bound=Spec)


class Tried(ABC, Generic[S]):
    """One plugin that is tried out. Trials are made when a check first looks at them, and kept.

    Args:
        plugin: With its settings bound.
    """

    def __init__(self, plugin: LoadedPlugin[S]) -> None:
        self.plugin = plugin
        self._trials: dict[Hashable, Trial] = {}

    @property
    def spec(self) -> S:
        """What the plugin says about itself."""
        return self.plugin.spec

    @abstractmethod
    def first(self) -> Trial:
        """An ordinary call, anew."""

    @abstractmethod
    def checks(self) -> Iterator[Check]:
        """All clauses, in the order in which they are examined."""

    def prepare(self) -> None:
        """Makes what the plugin is tried on, so that no time of the plugin's goes into that."""

    def kept(self, what: Hashable, make: Callable[[], Trial]) -> Trial:
        """A trial, made once."""
        if what not in self._trials:
            self._trials[what] = make()
        return self._trials[what]

    @property
    def main(self) -> Trial:
        """The ordinary call."""
        return self.kept("main", self.first)

    @property
    def again(self) -> Trial:
        """The same a second time, while the global random states are others."""

        def repeat() -> Trial:
            with other_random_states(9):
                return self.first()

        return self.kept("again", repeat)


class Subject(Tried[S]):
    """An attack, a defense or a merger, tried on toys."""

    @property
    @abstractmethod
    def before(self) -> Checkpoint:
        """What the result of the first trial stands in for."""

    @abstractmethod
    def rounded(self, dtype: torch.dtype) -> tuple[Checkpoint, Trial]:
        """The same on weights of another dtype, and what its result stands in for."""

    @abstractmethod
    def astray(self) -> Iterator[tuple[str, Trial]]:
        """Calls that cannot be expected to succeed, by what is wrong with them."""

    @abstractmethod
    def own_checks(self) -> Iterator[Check]:
        """The clauses of this kind of plugin."""

    def require_ran(self, trial: Trial, where: str = "") -> None:
        """Raises `Fails` where the plugin raised in a trial, unless it does so in the ordinary call as well."""
        if self.main.error is not None:
            raise DoesNotApply(f"it raised in its ordinary call: {told(self.main.error)}")
        if trial.error is not None:
            raise Fails(f"{where}it raised {told(trial.error)}")

    def budget(self) -> str:
        """What it has asked its view for, in words; raises `Fails` if that is more than was granted."""
        return "asks for nothing that its view does not give"

    def prepare(self) -> None:
        for architecture in toy_architectures():
            toy_scenario(architecture)

    def checks(self) -> Iterator[Check]:
        yield Check("runs", lambda: runs(self))
        yield Check("needs", lambda: _needs(self))
        yield Check("layout", lambda: _layout(self))
        yield Check("finite", lambda: _finite(self))
        yield Check("inputs", lambda: _inputs(self))
        yield Check("global state", lambda: global_state(self))
        yield Check("deterministic", lambda: deterministic(self))
        yield from self.own_checks()
        yield Check("bfloat16", lambda: _bfloat16(self))
        yield Check("errors", lambda: _errors(self))
        yield Check("elsewhere", lambda: same_elsewhere(self))


def runs(subject: Tried[Any]) -> str:
    """It returns."""
    trial = subject.main
    if isinstance(trial.error, ThreatModelViolation):
        raise DoesNotApply("it asks for what it does not declare; the check 'needs' says what")
    if trial.error is not None:
        raise Fails(f"it raised {told(trial.error)}")
    return "returns"


def _needs(subject: Subject[Any]) -> str:
    error = subject.main.error
    if isinstance(error, ThreatModelViolation):
        raise Fails(told(error))
    if error is not None:
        raise DoesNotApply(f"it raised {told(error)}")
    return subject.budget()


def _layout(subject: Subject[Any]) -> str:
    trial, before = subject.main, subject.before
    if trial.error is not None:
        raise DoesNotApply(f"it raised {told(trial.error)}")
    returned = trial.returned
    if isinstance(returned, Checkpoint):  # whether its values are finite is another question
        returned = Checkpoint.of({n: t.nan_to_num() for n, t in returned.items()}, returned.config)
    try:
        check_returned(subject.plugin, before, returned)
    except PluginFault as fault:
        raise Fails(str(fault)) from None
    if getattr(subject.spec, "changes_architecture", False):
        try:
            returned.module()
        except (RedteamError, RuntimeError) as error:
            raise Fails(f"it changes the architecture and what it returns builds no network: {told(error)}") from None
        return f"{len(returned)} tensors that build a network"
    if dict(returned.config) != dict(before.config):
        raise Fails("it returned another config than it was given; only what changes the architecture may")
    return f"{len(before)} tensors keep their names, shapes and dtypes"


def _finite(subject: Subject[Any]) -> str:
    if bad := not_finite(subject.main.checkpoint):
        raise Fails(f"it returned {bad!r} with values that are not finite")
    return "every value is finite"


def _inputs(subject: Subject[Any]) -> str:
    written = dict.fromkeys((*subject.main.written, *subject.again.written))
    if written:
        raise Fails(f"it wrote into {', '.join(written)}; work on copies (clone, or operations without underscore)")
    return "nothing that it was given has changed"


def global_state(subject: Tried[Any]) -> str:
    """It leaves no global state changed."""
    # Of two calls the second one counts: the first may import libraries that set things up for themselves.
    first, second = subject.main, subject.again
    if second.changed:
        raise Fails(
            f"it leaves {', '.join(second.changed)} changed; draw from a generator of your own (view.generator(…)), "
            "and put back whatever else has to be set"
        )
    return "left as it was" if not first.changed else f"only its first call changed {', '.join(first.changed)}"


def deterministic(subject: Tried[Any]) -> str:
    """Two calls give the same bits."""
    if subject.main.digest != subject.again.digest:
        raise Fails("two calls gave different bits; draw from a generator of your own alone (view.generator(…))")
    return "the same bits twice"


def _bfloat16(subject: Subject[Any]) -> str:
    before, trial = subject.rounded(torch.bfloat16)
    subject.require_ran(trial, "on weights in bfloat16 ")
    checkpoint = trial.checkpoint
    wrong = [name for name in checkpoint if name in before and checkpoint.dtype(name) != before.dtype(name)]
    if wrong and subject.main.checkpoint.dtype(wrong[0]) == subject.before.dtype(wrong[0]):
        raise Fails(f"given bfloat16 it returned {wrong[0]!r} in {checkpoint.dtype(wrong[0])}; keep the dtype")
    if not not_finite(subject.main.checkpoint) and (bad := not_finite(checkpoint)):
        raise Fails(f"on weights in bfloat16 it returned {bad!r} with values that are not finite")
    return "works on weights in bfloat16"


def _errors(subject: Subject[Any]) -> str:
    raised: list[str] = []
    if subject.main.error is not None and not isinstance(subject.main.error, RedteamError):
        raise DoesNotApply(f"it raised in its ordinary call: {told(subject.main.error)}")
    for where, trial in subject.astray():
        if trial.error is not None and not isinstance(trial.error, RedteamError):
            raise Fails(f"{where} it raised {told(trial.error)}; expected one of redteam.errors with a sentence")
        raised += [where] if trial.error is not None else []
    return f"one sentence {' and '.join(raised)}" if raised else "nothing made it fail"


def same_elsewhere(subject: Tried[Any]) -> str:
    """It gives the same bits in another process."""
    here = subject.main.digest
    if not subject.plugin.origin:
        raise DoesNotApply("it was given as a function; name it by its file or entry point")
    if subject.again.digest != here:
        raise DoesNotApply("it is not deterministic here")
    there = elsewhere.digest(subject.plugin)
    if there.error:
        raise Fails(f"in another process {there.error}")
    if there.digest != here:
        raise Fails("in another process it gave different bits; order sets before iterating over them")
    return "the same bits in another process"
