"""A limit on the CPU time of a plugin: what else a machine is doing meanwhile doesn't count, and neither do imports."""

from __future__ import annotations

import builtins
import signal
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

WALL = 10
"""By how many times the limit a plugin that merely waits may exceed it."""

_AGAIN = 0.5  # seconds until a plugin that swallows the first signal gets another


class OutOfTime(BaseException):
    """The time is up; not an `Exception`, so that no plugin takes it for one of its own."""


class Clock:
    """CPU seconds that a plugin may use, in this process and in the other one.

    Args:
        limit: How many.
    """

    def __init__(self, limit: float) -> None:
        self.limit = limit
        self.used = 0.0
        self._imports = 0.0

    @property
    def left(self) -> float:
        """Seconds that are left."""
        return max(0.0, self.limit - self.used)

    @contextmanager
    def running(self) -> Iterator[None]:
        """Counts what the block uses, imports left out, and ends it when nothing is left.

        Raises:
            OutOfTime: In the block when the time is up, or at once if it is up already.
        """
        if not self.left:
            raise OutOfTime
        started, allowed, self._imports, late = time.process_time(), self.left, 0.0, False

        def spent() -> float:
            return time.process_time() - started - self._imports

        def ring(number: int, _: Any) -> None:
            nonlocal late
            missing = allowed - spent()
            if number == signal.SIGPROF and missing > 0:  # it was importing
                signal.setitimer(signal.ITIMER_PROF, missing, _AGAIN)
            else:
                late = True
                raise OutOfTime

        global _current
        before, _current = _current, self
        try:
            with _alarms(ring, allowed), self._without_imports():
                yield
        finally:
            _current = before
            self.used += max(0.0, spent())
            self.used = max(self.used, self.limit) if late else self.used

    @contextmanager
    def _without_imports(self) -> Iterator[None]:
        original, depth = builtins.__import__, 0

        def timed(*arguments: Any, **named: Any) -> Any:
            nonlocal depth
            started, depth = time.process_time(), depth + 1
            try:
                return original(*arguments, **named)
            finally:
                depth -= 1
                if not depth:
                    self._imports += time.process_time() - started

        builtins.__import__ = timed
        try:
            yield
        finally:
            builtins.__import__ = original


def current() -> Clock | None:
    """The clock that is running, `None` if nothing is limited."""
    return _current


@contextmanager
def _alarms(ring: Any, seconds: float) -> Iterator[None]:
    """Two timers, one on the CPU time of this process and one for what merely waits, where the system has them."""
    if not hasattr(signal, "setitimer") or threading.current_thread() is not threading.main_thread():
        yield
        return
    timers = (
        (signal.SIGPROF, signal.ITIMER_PROF, seconds),
        (signal.SIGALRM, signal.ITIMER_REAL, WALL * seconds),
    )
    before = {number: signal.signal(number, ring) for number, _, _ in timers}
    try:
        for _, timer, after in timers:
            signal.setitimer(timer, after, _AGAIN)
        yield
    finally:
        for number, timer, _ in timers:
            signal.setitimer(timer, 0)
            signal.signal(number, before[number])


_current: Clock | None = None
