"""What a plan comes to: cells to compute, pairings to report, and the merges that they are measured against."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field, replace
from typing import Any

from redteam.evaluation.nodes import Node


@dataclass(frozen=True)
class Cell:
    """A pairing whose result is reported, or a control; the names of the cells behind it.

    Attributes:
        group: `"cell"`, or which control: `"planted"`, `"harmless"`, `"floor"`, `"weakened"`.
        attack: The chain's text.
        role: The attack's role.
        code: Whether the attack runs the defense's own code.
        labels: Labelled samples of the victim's task that the threat model grants; `None` for all.
        lock, recovered, merge: The cells with the protected model, the attack's, and the merge of it.
        naive: The merge of the protected model as it is.
        twin: The same attack on the unlocked victim, for planted locks.
        unused: The merge of the same attack from the base, for attacks with data of the victim's task.
        site, group_name: Where a planted lock sits, and from which group it is.
        reference: The merge of the victim as it was prepared for the lock, where a chain trains it before it locks it:
            what the cell is measured against in place of the merge with the unlocked victim.
    """

    group: str
    scenario: str
    seed: int
    defense: str
    key: int
    threat: str
    attack: str
    role: str
    merger: str
    code: bool
    labels: int | None
    lock: str
    recovered: str
    merge: str
    naive: str
    twin: str = ""
    unused: str = ""
    site: str = ""
    group_name: str = ""
    reference: str = ""

    @property
    def nodes(self) -> tuple[str, ...]:
        """The names of the cells behind it."""
        names = (self.lock, self.recovered, self.merge, self.naive, self.twin, self.unused, self.reference)
        return tuple(name for name in names if name)


@dataclass(frozen=True)
class Ground:
    """What a scenario under one seed and merger is measured against: names of cells."""

    scenario: str
    seed: int
    merger: str
    alone: str
    tune: str
    without: str
    reference: str

    @property
    def nodes(self) -> tuple[str, ...]:
        """The names of the cells behind it."""
        return (self.alone, self.tune, self.without, self.reference)


@dataclass(frozen=True)
class Case:
    """What the members of a gauntlet run on one after the other: one lock, merged with one merger.

    Attributes:
        gauntlet: Its name.
        defense, threat, merger: Texts, as in cells.
    """

    gauntlet: str
    scenario: str
    seed: int
    defense: str
    key: int
    threat: str
    merger: str


@dataclass
class Graph:
    """All cells of a plan, in an order in which inputs come first.

    Attributes:
        nodes: By name what is computed.
        cells: What is reported, and the controls.
        grounds: What they are measured against.
        cases: By case the pairings that a gauntlet goes through, in order: no attack first, then its members.
        optional: Pairings that are there for gauntlets alone, and run only while their case is open, each with the
            control that is of use only where it runs.
        spared: Those of them that were not run.
        skipped: What was asked for and is not planned.
    """

    nodes: dict[str, Node] = field(default_factory=dict)
    cells: dict[Cell, None] = field(default_factory=dict)
    grounds: dict[Ground, None] = field(default_factory=dict)
    cases: dict[Case, tuple[Cell, ...]] = field(default_factory=dict)
    optional: dict[Cell, Cell | None] = field(default_factory=dict)
    spared: dict[Cell, None] = field(default_factory=dict)
    skipped: dict[tuple[tuple[str, Any], ...], None] = field(default_factory=dict)

    def add(self, node: Node) -> str:
        """Takes a node in, once."""
        self.nodes.setdefault(node.name, node)
        return node.name

    def behind(self, cells: Iterable[Cell], grounds: Iterable[Ground] = ()) -> dict[str, Node]:
        """Everything that some cells and grounds need, inputs first."""
        wanted: set[str] = set()
        pending = [name for cell in cells for name in cell.nodes] + [
            name for ground in grounds for name in ground.nodes
        ]
        while pending:
            name = pending.pop()
            if name not in wanted:
                wanted.add(name)
                pending.extend(self.nodes[name].inputs.values())
        return {name: node for name, node in self.nodes.items() if name in wanted}

    def only(self, cells: Iterable[Cell]) -> Graph:
        """The same with some of its cells, and what they need."""
        kept = dict.fromkeys(cells)
        cases = {case: tuple(cell for cell in members if cell in kept) for case, members in self.cases.items()}
        return replace(
            self, nodes=self.behind(kept, self.grounds), cells=kept, cases={c: m for c, m in cases.items() if m}
        )
