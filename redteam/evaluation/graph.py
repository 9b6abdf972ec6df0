"""From a plan to cells: every pairing, the merges they are measured against, and the controls that belong to them."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from redteam.evaluation.loaded import Chain, Loaded
from redteam.evaluation.nodes import Node
from redteam.plugins.contracts import Needs
from redteam.plugins.reference import Reference
from redteam.plugins.registry import DEFENSES
from redteam.plugins.settings import settings_of
from redteam.threat import ThreatModel

_DATA = Needs.INPUTS | Needs.SAMPLES
_COEFFICIENTS = 30


@dataclass(frozen=True)
class Cell:
    """A pairing whose result is reported, or a control; the names of the cells behind it.

    Attributes:
        group: `"cell"`, or which control: `"planted"`, `"harmless"`, `"floor"`, `"weakened"`.
        attack: The chain's text.
        role: The attack's role.
        lock, recovered, merge: The cells with the protected model, the attack's, and the merge of it.
        naive: The merge of the protected model as it is.
        twin: The same attack on the unlocked victim, for planted locks.
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
    lock: str
    recovered: str
    merge: str
    naive: str
    twin: str = ""
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
    cells: list[Cell] = field(default_factory=list)
    grounds: list[Ground] = field(default_factory=list)
    skipped: list[dict[str, Any]] = field(default_factory=list)

    def add(self, node: Node) -> str:
        """Takes a node in, once."""
        self.nodes.setdefault(node.name, node)
        return node.name


def build(loaded: Loaded, identities: Mapping[tuple[str, int], str]) -> Graph:
    """Lays out every cell of a plan.

    Args:
        loaded: The plan and its plugins.
        identities: (scenario, seed) → digest of its weights and data.
    """
    graph = Graph()
    for scenario in loaded.scenarios:
        for seed in loaded.plan.seeds:
            _Layout(graph, loaded, scenario, seed, identities[scenario.text, seed]).lay()
    return graph


class _Layout:
    """The cells of one scenario under one seed."""

    def __init__(self, graph: Graph, loaded: Loaded, scenario: Chain, seed: int, identity: str) -> None:
        self.graph, self.loaded, self.scenario, self.seed = graph, loaded, scenario, seed
        self.where = {"scenario": identity, "seed": seed}
        self.how = {"scenario": scenario.how[0]}
        self.tunes: dict[str, str] = {}

    def lay(self) -> None:
        alone = self.node("alone", "experts and base alone", {}, {})
        unlocked = self.lock("unlocked victim", {"unlocked": True}, {}, key=0)
        for merger in self.loaded.mergers:
            self.tunes[merger.text] = self.node(
                "tune",
                f"coefficient of {merger.text}",
                {"merger": merger.identity, "grid": _grid(merger)},
                {"alone": alone},
                {"merger": merger.how},
            )
            self.graph.grounds.append(
                Ground(
                    self.scenario.text,
                    self.seed,
                    merger.text,
                    alone,
                    self.tunes[merger.text],
                    without=self.merge("companions", None, merger),
                    reference=self.merge("unlocked victim", unlocked, merger),
                )
            )
        for defense in self.loaded.defenses:
            keyed = defense.any(lambda spec: spec.keyed)
            for key in range(self.loaded.plan.keys if keyed else 1):
                lock = self.defend(defense, key)
                for threat, attack in self.pairs(keyed):
                    for merger in self.loaded.mergers:
                        self.cell("cell", defense.text, key, threat, attack, merger, lock)
            self.skip(defense)
            self.floor(defense)
            self.weakened(defense)
        first = self.loaded.mergers[0]
        for threat, attack in self.pairs(keyed=False):
            if attack.role != "recovery":
                continue
            if not attack.needs & _DATA:
                self.cell("harmless", "", 0, threat, attack, first, unlocked)
            twin = self.attack(threat, attack, unlocked, "unlocked victim", key=0)
            for site, group in sorted(_claims(attack), key=lambda claim: (claim[0], claim[1].name)):
                lock = self.lock(f"{group.name} planted at {site}", {"plant": [site, group.name]}, {}, key=0)
                self.cell("planted", "", 0, threat, attack, first, lock, twin=twin, site=site, group_name=group.name)

    def floor(self, defense: Chain) -> None:
        for threat, attack in self.pairs(defense.any(lambda spec: spec.keyed)):
            if attack.role == "recovery" and not attack.needs & _DATA:
                lock = self.defend(defense, 0, fresh=True)
                self.cell("floor", defense.text, 0, threat, attack, self.loaded.mergers[0], lock)

    def weakened(self, defense: Chain) -> None:
        if len(defense.links) > 1 or not defense.links[0].spec.weakened:
            return
        name, settings = defense.links[0].spec.name, defense.links[0].spec.weakened
        reference = Reference(defense.how[0][0], {**defense.links[0].settings, **settings})
        weak = Chain(f"{name} weakened", (DEFENSES.load(reference),))
        for threat, attack in self.pairs(weak.any(lambda spec: spec.keyed)):
            if attack.role == "recovery" and attack.any(lambda spec: name in spec.targets):
                self.cell("weakened", defense.text, 0, threat, attack, self.loaded.mergers[0], self.defend(weak, 0))

    def pairs(self, keyed: bool) -> Iterator[tuple[ThreatModel, Chain]]:
        """Attacks with the threat models that grant what they need; the key's holder whatever the threat model."""
        for threat in self.loaded.threats:
            for attack in self.loaded.attacks:
                needs = attack.needs & ~Needs.KEY if attack.role == "ceiling" else attack.needs
                if threat.allows(needs) and (keyed or not needs & Needs.CODE):
                    yield threat, attack

    def skip(self, defense: Chain) -> None:
        """Says which attacks that were asked for are not planned, since they need more than is granted."""
        for threat in self.loaded.threats:
            for attack in self.loaded.attacks:
                if attack.role == "recovery" and not threat.allows(attack.needs):
                    where = {"scenario": self.scenario.text, "seed": self.seed, "defense": defense.text}
                    reason = "needs more than the threat model grants"
                    self.graph.skipped.append(
                        {**where, "threat": threat.name, "attack": attack.text, "status": "skipped", "reason": reason}
                    )

    def cell(
        self,
        group: str,
        defense: str,
        key: int,
        threat: ThreatModel,
        attack: Chain,
        merger: Chain,
        lock: str,
        **rest: str,
    ) -> None:
        planted = f"{rest['group_name']} planted at {rest['site']}" if "site" in rest else ""
        label = planted or {"harmless": "the unlocked victim", "floor": f"{defense} on a fresh victim"}.get(
            group, defense
        )
        recovered = self.attack(threat, attack, lock, label, key)
        self.graph.cells.append(
            Cell(
                group,
                self.scenario.text,
                self.seed,
                defense,
                key,
                threat.name,
                attack.text,
                attack.role,
                merger.text,
                lock,
                recovered,
                merge=self.merge(f"{attack.text} on {label}", recovered, merger),
                naive=self.merge(label, lock, merger),
                **rest,
            )
        )

    def defend(self, defense: Chain, key: int, *, fresh: bool = False) -> str:
        what = f"{defense.text} on {'a fresh victim' if fresh else 'the victim'}"
        return self.lock(what, {"defense": defense.identity, "fresh": fresh}, {"defense": defense.how}, key)

    def lock(self, label: str, settings: dict[str, Any], how: dict[str, Any], key: int) -> str:
        return self.node("lock", f"lock {label}", {**settings, "key": key}, {}, how, makes=True)

    def attack(self, threat: ThreatModel, attack: Chain, lock: str, label: str, key: int) -> str:
        held = "leaked-key" if attack.role == "ceiling" else threat.name
        code = {"defense": self.graph.nodes[lock].how.get("defense", ())}
        return self.node(
            "attack",
            f"attack {attack.text} on {label}",
            {"attack": attack.identity, "threat": held, "key": key},
            {"lock": lock},
            {"attack": attack.how, **code},
            makes=True,
        )

    def merge(self, label: str, victim: str | None, merger: Chain) -> str:
        inputs = {"tune": self.tunes[merger.text], **({"victim": victim} if victim else {})}
        return self.node("merge", f"merge with {label}", {"merger": merger.identity}, inputs, {"merger": merger.how})

    def node(
        self,
        kind: str,
        label: str,
        settings: dict[str, Any],
        inputs: dict[str, str],
        how: dict[str, Any] | None = None,
        makes: bool = False,
    ) -> str:
        return self.graph.add(
            Node.of(
                kind,
                f"{label} ({self.scenario.text}, seed {self.seed})",
                settings={**self.where, **settings},
                inputs=inputs,
                how={**self.how, **(how or {})},
                makes=makes,
            )
        )


def _claims(attack: Chain) -> Sequence[tuple[str, Any]]:
    """What a chain claims to break: whatever one of its links does."""
    return sorted({claim for link in attack.links for claim in link.spec.breaks}, key=str)


def _grid(merger: Chain) -> list[dict[str, float]]:
    """The settings among which the attacker chooses on the companions-only merge; never zero."""
    spec = merger.links[0].spec
    if spec.tunable is None or spec.tunable in merger.links[0].reference.settings:
        return [{}]
    bounds = settings_of(merger.links[0].function)[spec.tunable].range
    assert bounds is not None
    step = (bounds.high - bounds.low) / (_COEFFICIENTS - 1)
    values = [round(bounds.low + step * index, 6) for index in range(_COEFFICIENTS)]
    return [{spec.tunable: value} for value in values if value != 0]
