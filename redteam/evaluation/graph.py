"""What a plan comes to: cells to compute, pairings to report, and the merges that they are measured against."""

from __future__ import annotations

from dataclasses import dataclass, field
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


@dataclass
class Graph:
    """All cells of a plan, in an order in which inputs come first."""

    nodes: dict[str, Node] = field(default_factory=dict)
    cells: dict[Cell, None] = field(default_factory=dict)
    grounds: dict[Ground, None] = field(default_factory=dict)
    skipped: dict[tuple[tuple[str, Any], ...], None] = field(default_factory=dict)

    def add(self, node: Node) -> str:
        """Takes a node in, once."""
        self.nodes.setdefault(node.name, node)
        return node.name
