"""Progress of training: a bar on a terminal, a plain line now and then elsewhere."""

from __future__ import annotations

import time
from types import TracebackType

from redteam.terminal import bar, say


class Progress:
    """Counts steps, on standard error."""

    def __init__(self, title: str, total: int) -> None:
        self._title, self._total, self._done = title, max(total, 1), 0
        self._started, self._told = time.monotonic(), 0
        self._bar = bar(self._total, text=title)

    def __enter__(self) -> Progress:
        if self._bar is None:
            say(f"{self._title}: training, a minute or two")
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._bar is not None:
            self._bar.stop()
        elif kind is None:
            say(f"{self._title}: trained in {time.monotonic() - self._started:.0f} s")

    def step(self, what: str) -> None:
        """One step further.

        Args:
            what: What the step trained.
        """
        self._show(self._done + 1, what)

    def reach(self, share: float, what: str) -> None:
        """So far already, for a training whose number of steps nobody knows; never back.

        Args:
            share: Of the way, 0 to 1.
            what: What is trained.
        """
        self._show(max(self._done, int(share * self._total)), what)

    def _show(self, done: int, what: str) -> None:
        self._done = done
        if self._bar is not None:
            self._bar.show(self._done, f"{self._title}: {what}")
        elif (fifth := 5 * self._done // self._total) > self._told and self._done < self._total:
            self._told = fifth
            say(f"{self._title}: {what}, {100 * self._done // self._total} %")
