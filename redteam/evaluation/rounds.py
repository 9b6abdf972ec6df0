"""Carries out a graph: everything that was asked for, then gauntlets member by member, on the cases still open."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace
from typing import Protocol

from redteam.evaluation.execute import Outcome, execute
from redteam.evaluation.gauntlet import closed
from redteam.evaluation.graph import Cell, Graph
from redteam.evaluation.judge import Judge
from redteam.evaluation.nodes import Node
from redteam.evaluation.store import Store


class Watcher(Protocol):
    """Who is told what is to be computed, and what was."""

    def planned(self, graph: Graph, cached: frozenset[str]) -> None:
        """These cells are needed, those before among them, and so many of them are there already."""

    def settled(self, node: Node, outcome: Outcome) -> None:
        """A cell is done, or has failed."""


def carry_out(
    graph: Graph, done: dict[str, Outcome], store: Store, *, workers: int, time_limit: float, observer: Watcher
) -> Graph:
    """Computes what is missing and enters every outcome in `done`.

    Args:
        graph: All that may be needed.
        done: Name → outcome as far as known; filled in (`redteam.evaluation.execute`).
        store: Where records and checkpoints lie.
        workers: Processes; 0 computes in this one.
        time_limit: Seconds after which a cell is ended.
        observer: Told of every round, and of every outcome.

    Returns:
        What was needed in the end: without the pairings that a gauntlet has spared.
    """
    cells, turn = list(graph.cells), 0
    locks = frozenset(cell.lock for cell in graph.optional)
    fresh = frozenset(floor.lock for floor in graph.optional.values() if floor is not None)
    while True:
        needed = graph.only(cells)
        observer.planned(needed, frozenset(name for name in needed.nodes if name in done))
        execute(
            needed.nodes,
            done,
            store,
            workers=workers,
            time_limit=time_limit,
            watch=observer.settled,
            keep=locks | fresh,  # later rounds start from them
        )
        more: list[Cell] = []
        while not more and turn < max(map(len, graph.cases.values()), default=0):
            turn += 1
            more = [cell for cell in dict.fromkeys(_next(graph, done, turn)) if cell not in needed.cells]
        if not more:
            return replace(needed, spared={cell: None for cell in graph.optional if cell not in needed.cells})
        cells += more


def _next(graph: Graph, done: dict[str, Outcome], turn: int) -> Iterable[Cell]:
    """The member whose turn it is in every case that those before it have left open, and the control that goes with it.

    A case that could not be judged stays open: what an attack does not apply to, or fails on, others may break.
    """
    cells = dict.fromkeys(cell for members in graph.cases.values() for cell in members)
    judge = Judge(replace(graph, cells=cells), done)
    for members in graph.cases.values():
        if turn < len(members) and not closed(judge, members[:turn]):
            yield members[turn]
            floor = graph.optional.get(members[turn])
            if floor is not None:
                yield floor
