"""Plain lines on standard error, for whoever reads progress without a terminal, and text that no terminal obeys."""

from __future__ import annotations

import re
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from enum import IntEnum

from redteam.events import Observer

_LINES = 10  # how many lines there are about one piece of steadily progressing work

_OBEYED = r"\x00-\x08\x0b-\x1f\x7f-\x9f\u200e\u200f\u202a-\u202e\u2066-\u2069"
_RAW = re.compile(f"[{_OBEYED}]")
_ESCAPED = re.compile(r"(?<!\\)((?:\\\\)*)\\([bfr]|u[0-9a-fA-F]{4})")


def disarmed(text: str) -> str:
    """Text without what a terminal would obey: control characters but line breaks and tabs, and turns of direction."""
    return _RAW.sub("\ufffd", text)


def disarmed_json(text: str) -> str:
    """JSON of strings that are so."""

    def harmless(found: re.Match[str]) -> str:
        code = found[2]
        meant = chr(int(code[1:], 16)) if code.startswith("u") else "\r"
        return f"{found[1]}\\ufffd" if _RAW.match(meant) else found[0]

    return _ESCAPED.sub(harmless, disarmed(text.replace("\r\n", "\n")))


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
