"""Theft and cost of a pipeline on tuning data: the evaluation's own cells, scored on the validation splits.

The victim's validation data stand where scores stand otherwise, the test data are never read, and the lock lies under
a key that no evaluation scores with.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from redteam.errors import BadInput, PluginFault
from redteam.evaluation.execute import Outcome, execute
from redteam.evaluation.graph import Cell, Graph
from redteam.evaluation.judge import Judge
from redteam.evaluation.layout import Layout
from redteam.evaluation.loaded import Chain, Loaded
from redteam.evaluation.prepare import prepare
from redteam.evaluation.store import Store
from redteam.evaluation.thresholds import THRESHOLDS
from redteam.plugins.registry import ATTACKS
from redteam.tasks import Split

SPLIT: Split = "validation"
KEY = 2 * 10**6
"""The key that is tuned under: far from those that a plan counts, and from their second releases."""


@dataclass(frozen=True)
class Measured:
    """What came of a pipeline.

    Attributes:
        status: `"ok"`, `"skipped"` (it does not apply here), `"error"` or `"timeout"`.
        reason: Why there are no figures.
        theft: 0 to 1, on the tuning data.
        seconds, labels, steps: What it cost.
    """

    status: str
    reason: str = ""
    theft: float | None = None
    seconds: float | None = None
    labels: int | None = None
    steps: int | None = None


class Tuning:
    """One scenario, seed, defense, merger and threat model, on tuning data.

    Args:
        loaded: A plan of one of each.
        root: Where finished cells go; what lies there is not computed again.
        workers: 1, or 0 to compute in this process, without time limits.
        tell: Told of the scenario before it is loaded.

    Raises:
        RedteamError: If the scenario or the defense fails, or theft means nothing here.
    """

    def __init__(
        self, loaded: Loaded, root: Path, *, workers: int = 1, tell: Callable[[str, int], None] = lambda *_: None
    ) -> None:
        self.store, self.workers, self.limit = Store(root), workers, loaded.plan.time_limit
        (self.part,) = loaded.parts
        ((where, self.identity),) = prepare(loaded, workers=0, tell=tell).items()
        self.graph = Graph()
        self.done: dict[str, Outcome] = {}
        self.layout = Layout(self.graph, self.part, self.part.scenarios[0], where[1], self.identity, split=SPLIT)
        self.layout.grounds()
        (self.defense,), (self.threat,) = self.part.defenses, self.part.threats
        mergers = self.layout.mergers(self.threat)
        if not mergers:
            raise BadInput(
                f"The merger {self.part.mergers[0].text} needs the base, which {self.threat.name} withholds; name one "
                "that needs none, such as --merger linear."
            )
        self.merger = mergers[0]
        self.lock = self.layout.defend(self.defense, KEY)
        (naive,) = (chain for chain in self.part.attacks if chain.role == "naive")
        self.naive = self._ground(naive)

    def measure(self, pipeline: str) -> Measured:
        """Attacks, merges and scores; what was computed before is only read."""
        cell = self._cell(Chain.load(ATTACKS, pipeline, Path()))
        judge = self._computed(cell)
        status, reason = judge.status(cell)
        theft = judge.theft(cell)
        if status != "ok" or theft is None:
            return Measured(status if status != "ok" else "error", reason or "its merge could not be scored")
        cost = self.done[cell.recovered]["result"]["cost"]
        return Measured("ok", "", float(theft[0]), float(cost["seconds"]), int(cost["labels"]), int(cost["steps"]))

    def _ground(self, naive: Chain) -> float:
        """Theft without any attack; that the scenario and the lock work is found out on the way."""
        cell = self._cell(naive)
        judge = self._computed(cell)
        for name in self.graph.only([cell]).nodes:
            outcome = self.done[name]
            if outcome["status"] != "ok":
                raise PluginFault(f"Nothing can be searched here: {self.graph.nodes[name].label}: {outcome['reason']}.")
        theft, yardstick = judge.theft(cell), judge.yardstick(cell)
        assert theft is not None
        assert yardstick is not None
        if yardstick.gain[0] < THRESHOLDS.gain:
            raise BadInput(
                f"The victim adds {yardstick.gain[0]:.3f} to the merge here, and theft means nothing under "
                f"{THRESHOLDS.gain}; take another scenario, seed or merger."
            )
        return float(theft[0])

    def _cell(self, attack: Chain) -> Cell:
        cell = self.layout.cell("cell", self.defense, KEY, self.threat, attack, self.merger, self.lock)
        return replace(cell, unused="")  # what labels buy anyway is told apart on the scoring data alone

    def _computed(self, cell: Cell) -> Judge:
        needed = self.graph.only([cell])
        for name in needed.nodes:
            if name not in self.done and (record := self.store.get(name)) is not None:
                self.done[name] = record
        execute(
            needed.nodes,
            self.done,
            self.store,
            workers=self.workers,
            time_limit=self.limit,
            watch=_nobody,
            keep=frozenset(name for name, node in self.graph.nodes.items() if node.kind == "lock"),
        )
        return Judge(replace(needed, cells={cell: None}), self.done)


def _nobody(*_: Any) -> None:
    """Watches a cell settle; trials are told of as wholes."""
