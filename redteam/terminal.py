"""Plain lines on standard error, for whoever reads progress without a terminal."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from enum import IntEnum

from redteam.events import Observer

_LINES = 10  # how many lines there are about one piece of steadily progressing work


class Loudness(IntEnum):
    """How much of progress is shown."""

    quiet = 0
    normal = 1
    verbose = 2


_LOUDNESS: ContextVar[Loudness] = ContextVar("loudness", default=Loudness.normal)


def loudness() -> Loudness:
    """How much is to be shown here."""
    return _LOUDNESS.get()


@contextmanager
def at_loudness(wanted: Loudness) -> Iterator[None]:
    """Shows so much in the block."""
    token = _LOUDNESS.set(wanted)
    try:
        yield
    finally:
        _LOUDNESS.reset(token)


def say(text: str) -> None:
    """Prints a plain line on standard error."""
    print(text, file=sys.stderr, flush=True)  # noqa: T201


def mention(text: str) -> None:
    """Prints a line about progress there, unless none is wanted."""
    if loudness() > Loudness.quiet:
        say(text)


class Lines(Observer):
    """Reports steadily progressing work, such as training, in a handful of plain lines."""

    def __init__(self) -> None:
        self._printed = 0

    def advanced(self, done: int, total: int, what: str) -> None:
        """Prints a line when the work begins, and when a further tenth of it is done."""
        tenth = done * _LINES // max(total, 1)
        if done == 0 or tenth > self._printed:
            mention(f"[{done}/{total}] {what}")
        self._printed = 0 if done >= total else max(self._printed if done else 0, tenth)
