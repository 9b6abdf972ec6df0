"""A progress bar on a terminal; elsewhere there is none, and callers print plain lines."""

from __future__ import annotations

import multiprocessing
import sys


class Bar:
    """A running bar on standard error.

    Args:
        total: Steps.
        done: How many of them are behind.
        text: What stands beside it.
    """

    def __init__(self, total: int, *, done: int = 0, text: str = "") -> None:
        from rich.console import Console
        from rich.progress import (
            BarColumn,
            MofNCompleteColumn,
            Progress,
            TextColumn,
            TimeElapsedColumn,
            TimeRemainingColumn,
        )

        columns = (
            BarColumn(),
            MofNCompleteColumn(),
            TimeElapsedColumn(),
            TimeRemainingColumn(),
            TextColumn("{task.description}", markup=False),
        )
        self._bar = Progress(*columns, console=Console(stderr=True), transient=True)
        self._bar.start()
        self._task = self._bar.add_task(text, total=total, completed=done)

    def show(self, done: int, text: str) -> None:
        """So many steps are behind, and what is being done."""
        self._bar.update(self._task, completed=done, description=text[:60])

    def lengthen(self, total: int) -> None:
        """So many steps there are in all, as it turns out."""
        self._bar.update(self._task, total=total)

    def print(self, text: str) -> None:
        """A line above the bar, which stays."""
        self._bar.console.print(text, markup=False)

    def stop(self) -> None:
        """Takes the bar away."""
        self._bar.stop()


def bar(total: int, *, done: int = 0, text: str = "") -> Bar | None:
    """A bar, if standard error is a terminal and this is no worker, whose bars would overwrite each other."""
    if not sys.stderr.isatty() or multiprocessing.parent_process() is not None:
        return None
    return Bar(total, done=done, text=text)


def say(text: str) -> None:
    """A plain line on standard error."""
    print(text, file=sys.stderr, flush=True)  # noqa: T201
