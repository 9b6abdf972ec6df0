"""Progress of training: a bar on a terminal, a plain line now and then elsewhere."""

from __future__ import annotations

import multiprocessing
import sys
import time
from types import TracebackType
from typing import Any


class Progress:
    """Counts steps, on standard error."""

    def __init__(self, title: str, total: int) -> None:
        self._title, self._total, self._done = title, max(total, 1), 0
        self._started, self._told = time.monotonic(), 0
        self._bar: Any = None
        self._task: Any = None

    def __enter__(self) -> Progress:
        if sys.stderr.isatty() and multiprocessing.parent_process() is None:  # workers' bars would overwrite each other
            from rich.console import Console
            from rich.progress import Progress as Bar

            self._bar = Bar(console=Console(stderr=True), transient=True)
            self._bar.start()
            self._task = self._bar.add_task(self._title, total=self._total)
        else:
            self._say("training, a minute or two")
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._bar is not None:
            self._bar.stop()
        elif kind is None:
            self._say(f"trained in {time.monotonic() - self._started:.0f} s")

    def step(self, what: str) -> None:
        """One step further.

        Args:
            what: What the step trained.
        """
        self._done += 1
        if self._bar is not None:
            self._bar.update(self._task, completed=self._done, description=f"{self._title}: {what}")
        elif (fifth := 5 * self._done // self._total) > self._told and self._done < self._total:
            self._told = fifth
            self._say(f"{what}, {100 * self._done // self._total} %")

    def _say(self, text: str) -> None:
        print(f"{self._title}: {text}", file=sys.stderr, flush=True)  # noqa: T201
