"""What long work reports: one `Observer` for runs, searches, trainings and checkpoints that are being written.

Whoever wants to follow such work derives from `Observer` and overrides what it needs; what is not overridden is
ignored. Work that is called without an observer, such as a scenario that trains its models, reports to the one that
`reporting_to` has set.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from redteam.evaluation.plan import Plan
    from redteam.evaluation.results import Results, Verdict
    from redteam.search.space import Space


class Observer:
    """Ignores all events; a base class for those that don't.

    The methods are called from the thread and process that started the work.
    """

    def started(self, plan: Plan, folder: Path) -> None:
        """The plan can be run.

        Args:
            plan: What was asked for.
            folder: Where results and finished steps go; nobody else writes to it from here on.
        """

    def preparing(self, scenario: str, seed: int) -> None:
        """A scenario is about to be loaded, or trained where it is not cached."""

    def planned(self, added: int, total: int, cached: int, why: str) -> None:
        """Steps have been planned; called again whenever a run turns out to need more of them.

        Args:
            added: Steps that this call adds.
            total: Steps in all, those added included.
            cached: How many of the total are finished already.
            why: Why they are needed, as a short phrase such as `"controls of mergelock: no attack broke it"`.
        """

    def estimated(self, sentence: str) -> None:
        """It can be said what the run will cost: once, when base and experts have been scored.

        Args:
            sentence: On time and memory.
        """

    def settled(self, label: str, status: str, reason: str, done: int, total: int) -> None:
        """A step has ended.

        Args:
            label: What it was, such as `"procrustes on mergelock"`.
            status: `"ok"`, `"error"`, `"timeout"` or `"skipped"`.
            reason: Why it has no result; empty for `"ok"`.
            done: Finished steps, cached ones included.
            total: Steps in all, as far as they are planned.
        """

    def decided(self, verdict: Verdict) -> None:
        """A verdict is known; the run may still be computing others."""

    def finished(self, results: Results | None) -> None:
        """The run is over and `results.json` is written.

        Args:
            results: What was found, `None` where the run was interrupted or failed.
        """

    def searching(self, space: Space, naive: float, done: int, total: int) -> None:
        """A search has opened its study.

        Args:
            space: From which pipelines are drawn.
            naive: Theft without any attack, on the tuning data.
            done: Trials that are finished already.
            total: Trials that were asked for.
        """

    def defending(self, space: Space, line: float | None, done: int, total: int) -> None:
        """A search for a defense has opened its study.

        Args:
            space: From which chains are drawn.
            line: Theft by whoever only runs the model; `None` where nobody imitates.
            done: Trials that are finished already.
            total: Trials that were asked for.
        """

    def tried(self, pipeline: str, outcome: str, best: str, done: int, total: int) -> None:
        """A trial of a search has ended.

        Args:
            pipeline: The attacks that were tried.
            outcome: What came of it, such as `"theft 0.93 in 0.2 s"`, or why nothing did.
            best: The best trial so far in the same words, followed by its pipeline; empty if none has a figure.
            done: Finished trials.
            total: Trials that were asked for.
        """

    def scoring(self, pipeline: str) -> None:
        """The best pipeline of a search is about to be run on the scoring data."""

    def advanced(self, done: int, total: int, what: str) -> None:
        """Steadily progressing work, such as training or writing a checkpoint, has come further.

        Args:
            done: Steps that are finished; 0 when the work begins, `total` when it has ended.
            total: Steps in all.
            what: What is being done now.
        """


class Observers(Observer):
    """Passes every event on to several observers, in this order."""

    def __init__(self, *observers: Observer) -> None:
        self.observers = observers

    def started(self, plan: Plan, folder: Path) -> None:
        for observer in self.observers:
            observer.started(plan, folder)

    def preparing(self, scenario: str, seed: int) -> None:
        for observer in self.observers:
            observer.preparing(scenario, seed)

    def planned(self, added: int, total: int, cached: int, why: str) -> None:
        for observer in self.observers:
            observer.planned(added, total, cached, why)

    def estimated(self, sentence: str) -> None:
        for observer in self.observers:
            observer.estimated(sentence)

    def settled(self, label: str, status: str, reason: str, done: int, total: int) -> None:
        for observer in self.observers:
            observer.settled(label, status, reason, done, total)

    def decided(self, verdict: Verdict) -> None:
        for observer in self.observers:
            observer.decided(verdict)

    def finished(self, results: Results | None) -> None:
        for observer in self.observers:
            observer.finished(results)

    def searching(self, space: Space, naive: float, done: int, total: int) -> None:
        for observer in self.observers:
            observer.searching(space, naive, done, total)

    def defending(self, space: Space, line: float | None, done: int, total: int) -> None:
        for observer in self.observers:
            observer.defending(space, line, done, total)

    def tried(self, pipeline: str, outcome: str, best: str, done: int, total: int) -> None:
        for observer in self.observers:
            observer.tried(pipeline, outcome, best, done, total)

    def scoring(self, pipeline: str) -> None:
        for observer in self.observers:
            observer.scoring(pipeline)

    def advanced(self, done: int, total: int, what: str) -> None:
        for observer in self.observers:
            observer.advanced(done, total, what)


class Steps:
    """Counts the steps of a piece of work and reports them to the current observer, in a `with` block.

    Args:
        title: What the work is called.
        total: How many steps it has.
    """

    def __init__(self, title: str, total: int) -> None:
        self._title, self._total, self._done = title, max(total, 1), 0
        self._observer = current()

    def __enter__(self) -> Steps:
        self._observer.advanced(0, self._total, f"{self._title}: training")
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if kind is None and self._done < self._total:
            self._observer.advanced(self._total, self._total, f"{self._title}: done")

    def step(self, what: str) -> None:
        """Counts one step.

        Args:
            what: What the step trained.
        """
        self._report(self._done + 1, what)

    def reach(self, share: float, what: str) -> None:
        """Sets how far the work is, where the number of steps is not known beforehand; never further back.

        Args:
            share: Of the way, 0 to 1.
            what: What is trained.
        """
        self._report(max(self._done, int(share * self._total)), what)

    def _report(self, done: int, what: str) -> None:
        if min(done, self._total) > self._done:
            self._done = min(done, self._total)
            self._observer.advanced(self._done, self._total, f"{self._title}: {what}")


_current: ContextVar[Observer] = ContextVar("redteam_observer")


def current() -> Observer:
    """The observer that work without one of its own reports to; one that prints plain lines if nobody has set one."""
    from redteam.terminal import Lines

    return _current.get(None) or Lines()


@contextmanager
def reporting_to(observer: Observer) -> Iterator[None]:
    """Makes an observer the current one in the block."""
    token = _current.set(observer)
    try:
        yield
    finally:
        _current.reset(token)
