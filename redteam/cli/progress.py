"""Progress of a run: a bar on a terminal, plain lines elsewhere."""

from __future__ import annotations

from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any

from redteam.terminal import Bar, bar, say

if TYPE_CHECKING:
    from redteam.evaluation.graph import Graph
    from redteam.evaluation.nodes import Node
    from redteam.evaluation.plan import Plan
    from redteam.evaluation.results import Results


class Progress:
    """Shows on standard error what is being done."""

    def __init__(self) -> None:
        self._cached: frozenset[str] = frozenset()
        self._total = self._done = 0
        self._bar: Bar | None = None

    def __enter__(self) -> Progress:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._bar is not None:
            self._bar.stop()

    def started(self, plan: Plan, folder: Path) -> None:
        """Nothing to show so far."""

    def preparing(self, scenario: str, seed: int) -> None:
        """Names the scenario; it shows its own progress where it has to be trained."""
        say(f"Scenario {scenario}, seed {seed}")

    def planned(self, graph: Graph, cached: frozenset[str]) -> None:
        """Starts the bar, and makes it longer when more turns out to be needed."""
        more = len(graph.nodes) - self._total
        first, self._cached, self._total, self._done = not self._total, cached, len(graph.nodes), len(cached)
        say(f"{self._total} computations, {self._done} of them cached" if first else f"{more} further computations")
        if self._bar is not None:
            self._bar.lengthen(self._total)
        elif self._done < self._total:
            self._bar = bar(self._total, done=self._done)

    def settled(self, node: Node, outcome: dict[str, Any]) -> None:
        """One cell further. Those computed again for others do not count twice."""
        self._done += node.name not in self._cached
        status = outcome["status"]
        told = node.label + ("" if status == "ok" else f": {status}, {outcome['reason']}")
        if self._bar is None:
            say(f"[{self._done}/{self._total}] {told}")
            return
        self._bar.show(self._done, node.label)
        if status != "ok":
            self._bar.print(told)

    def finished(self, results: Results | None) -> None:
        """What was found is told when the bar is gone."""
