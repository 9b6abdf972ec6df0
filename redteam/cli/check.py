"""`redteam check NAME`: holds a plugin to the contract of its kind."""

from __future__ import annotations

import signal
import threading
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Annotated, Any

import typer

if TYPE_CHECKING:
    from redteam.testing import Check, Outcome

_SHORT = {"passed": "passed", "failed": "FAILED", "not applicable": "n/a"}


def check(
    name: Annotated[str, typer.Argument(metavar="NAME", help="A plugin, or path/to/file.py@name, settings as usual.")],
    time_limit: Annotated[
        float, typer.Option(min=1.0, help="Seconds for all checks together; what is not done by then has failed.")
    ] = 60.0,
) -> None:
    """Hold a plugin to the contract of its kind, on small random models; exit code 1 if a check fails.

    Attacks, defenses and mergers have one. Each check prints a line: passed, failed or not applicable, and why.
    """
    from redteam.testing import checks_for, plugins

    started = time.perf_counter()
    total: Counter[str] = Counter()
    for plugin in plugins(name):
        typer.echo(f"{plugin.spec.kind} {plugin.canonical}")
        for one in checks_for(plugin):
            outcome = _within(one, time_limit - (time.perf_counter() - started))
            total[outcome.status] += 1
            typer.echo(f"  {_SHORT[outcome.status]:<7} {outcome.check:<36} {outcome.reason}")
    counts = ", ".join(f"{total[status]} {status}" for status in _SHORT)
    typer.echo(f"{counts}; {time.perf_counter() - started:.1f} s")
    raise typer.Exit(1 if total["failed"] else 0)


class _Late(BaseException):
    """The time is up; not an `Exception`, so that no plugin takes it for one of its own."""


def _within(check: Check, seconds: float) -> Outcome:
    from redteam.testing import Outcome

    late = Outcome(check.name, "failed", "not done within the time limit (--time-limit)")
    if seconds <= 0:
        return late
    try:
        with _alarm(seconds):
            return check.run()
    except _Late:
        return late


@contextmanager
def _alarm(seconds: float) -> Iterator[None]:
    """Raises `_Late` in the block after some seconds, where the system has such an alarm."""
    if not hasattr(signal, "setitimer") or threading.current_thread() is not threading.main_thread():
        yield
        return

    def ring(*_: Any) -> None:
        raise _Late

    before = signal.signal(signal.SIGALRM, ring)
    signal.setitimer(signal.ITIMER_REAL, seconds)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)
