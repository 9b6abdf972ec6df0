"""Progress of a run: a bar on a terminal, plain lines elsewhere."""

from __future__ import annotations

import sys
import time
from types import TracebackType
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from redteam.evaluation.graph import Graph
    from redteam.evaluation.nodes import Node


class Progress:
    """Shows on standard error what is being done."""

    def __init__(self) -> None:
        self._cached: frozenset[str] = frozenset()
        self._total = self._done = 0
        self._started = time.monotonic()
        self._bar: Any = None
        self._task: Any = None

    def __enter__(self) -> Progress:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._bar is not None:
            self._bar.stop()

    def preparing(self, scenario: str, seed: int) -> None:
        """Names the scenario; it shows its own progress where it has to be trained."""
        print(f"Scenario {scenario}, seed {seed}", file=sys.stderr, flush=True)  # noqa: T201

    def planned(self, graph: Graph, cached: frozenset[str]) -> None:
        """Starts the bar."""
        self._cached, self._total, self._done = cached, len(graph.nodes), len(cached)
        print(f"{self._total} computations, {self._done} of them cached", file=sys.stderr, flush=True)  # noqa: T201
        if sys.stderr.isatty() and self._done < self._total:
            from rich.console import Console
            from rich.progress import BarColumn, MofNCompleteColumn, TextColumn, TimeElapsedColumn, TimeRemainingColumn
            from rich.progress import Progress as Bar

            columns = (
                BarColumn(),
                MofNCompleteColumn(),
                TimeElapsedColumn(),
                TimeRemainingColumn(),
                TextColumn("{task.description}"),
            )
            self._bar = Bar(*columns, console=Console(stderr=True), transient=True)
            self._bar.start()
            self._task = self._bar.add_task("", total=self._total, completed=self._done)

    def settled(self, node: Node, outcome: dict[str, Any]) -> None:
        """One cell further. Those computed again for others do not count twice."""
        self._done += node.name not in self._cached
        status = outcome["status"]
        told = node.label + ("" if status == "ok" else f": {status}, {outcome['reason']}")
        if self._bar is None:
            print(f"[{self._done}/{self._total}] {told}", file=sys.stderr, flush=True)  # noqa: T201
            return
        self._bar.update(self._task, completed=self._done, description=node.label[:60])
        if status != "ok":
            self._bar.console.print(told, markup=False)
