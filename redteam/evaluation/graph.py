"""From a plan to cells: every pairing, the merges they are measured against, and the controls that belong to them."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from redteam.errors import BadInput, BadPlan
from redteam.evaluation.nodes import Node
from redteam.evaluation.plan import Plan
from redteam.plugins.contracts import AttackSpec, Needs
from redteam.plugins.reference import Reference, chain_text, parse_chain
from redteam.plugins.registry import ATTACKS, DEFENSES, MERGERS, SCENARIOS, LoadedPlugin, Registry
from redteam.plugins.settings import settings_of
from redteam.threat import ThreatModel, threat_model

_DATA = Needs.INPUTS | Needs.SAMPLES
_COEFFICIENTS = 30


@dataclass(frozen=True)
class Chain:
    """One plugin, or several applied one after the other, as written `a+b`.

    Attributes:
        text: What reports call it: canonical, but without the settings that were left at their defaults.
        links: The plugins, in order.
    """

    text: str
    links: tuple[LoadedPlugin[Any], ...]

    @classmethod
    def load(cls, registry: Registry[Any], text: str, folder: Path) -> Chain:
        """Imports every link of the text."""
        references = parse_chain(text)
        shown = tuple(Reference(reference.plugin, reference.settings) for reference in references)
        return cls(chain_text(shown), tuple(registry.load(reference, folder=folder) for reference in references))

    @property
    def identity(self) -> list[Any]:
        """What a cell's name says about it: names, settings and sources."""
        return [[link.spec.name, dict(link.settings), link.source_digest] for link in self.links]

    @property
    def how(self) -> list[tuple[str, dict[str, Any]]]:
        """Names and settings under which a worker loads the same, wherever it runs."""
        return [
            (f"{link.origin}@{link.spec.name}" if link.reference.file else link.name, dict(link.settings))
            for link in self.links
        ]

    def any(self, check: Callable[[Any], bool]) -> bool:
        """Whether some link's spec passes the check."""
        return any(check(link.spec) for link in self.links)

    @property
    def needs(self) -> Needs:
        """What the attacks in it need between them."""
        total = Needs.NONE
        for link in self.links:
            total |= link.spec.needs
        return total

    @property
    def role(self) -> str:
        """The role of the last attack in it."""
        return str(self.links[-1].spec.role)


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


@dataclass(frozen=True)
class Loaded:
    """A plan with its plugins imported.

    Raises:
        RedteamError: On loading, if a name or a setting is wrong; nothing has run by then.
    """

    plan: Plan
    scenarios: tuple[Chain, ...]
    defenses: tuple[Chain, ...]
    attacks: tuple[Chain, ...]
    mergers: tuple[Chain, ...]
    threats: tuple[ThreatModel, ...]

    @classmethod
    def of(cls, plan: Plan, folder: Path) -> Loaded:
        """Loads everything the plan names, and the attacks that belong to every evaluation."""
        attacks = [Chain.load(ATTACKS, text, folder) for text in plan.attacks]
        named = {link.name for chain in attacks if len(chain.links) == 1 for link in chain.links}
        for name in ATTACKS.names:
            spec: AttackSpec = ATTACKS.load(name).spec
            if (spec.always or spec.role != "recovery") and name not in named:
                attacks.append(Chain.load(ATTACKS, name, folder))
        order = ("naive", "recovery", "trivial", "ceiling")
        attacks.sort(key=lambda chain: order.index(chain.role))
        scenarios = [_single(Chain.load(SCENARIOS, text, folder), "scenario") for text in plan.scenarios]
        for chain in scenarios:
            if "seed" in chain.links[0].reference.settings:
                raise BadPlan(f"{chain.text!r} sets a seed, which would not be used; list seeds in the plan's 'seeds'.")
        return cls(
            plan,
            _distinct("scenarios", scenarios),
            _distinct("defenses", [Chain.load(DEFENSES, text, folder) for text in plan.defenses]),
            _distinct("attacks", attacks),
            _distinct("mergers", [_single(Chain.load(MERGERS, text, folder), "merger") for text in plan.mergers]),
            tuple(threat_model(name) for name in plan.threats),
        )


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
                for threat, attack in self.pairs(defense, keyed):
                    for merger in self.loaded.mergers:
                        self.cell("cell", defense.text, key, threat, attack, merger, lock)
            self.floor(defense)
            self.weakened(defense)
        first = self.loaded.mergers[0]
        for threat, attack in self.pairs(None, keyed=False):
            if attack.role != "recovery":
                continue
            if not attack.needs & _DATA:
                self.cell("harmless", "", 0, threat, attack, first, unlocked)
            twin = self.attack(threat, attack, unlocked, "unlocked victim", key=0)
            for site, group in sorted(_claims(attack), key=lambda claim: (claim[0], claim[1].name)):
                lock = self.lock(f"{group.name} planted at {site}", {"plant": [site, group.name]}, {}, key=0)
                self.cell("planted", "", 0, threat, attack, first, lock, twin=twin, site=site, group_name=group.name)

    def floor(self, defense: Chain) -> None:
        for threat, attack in self.pairs(defense, keyed=defense.any(lambda spec: spec.keyed)):
            if attack.role == "recovery" and not attack.needs & _DATA:
                lock = self.defend(defense, 0, fresh=True)
                self.cell("floor", defense.text, 0, threat, attack, self.loaded.mergers[0], lock)

    def weakened(self, defense: Chain) -> None:
        if len(defense.links) > 1 or not defense.links[0].spec.weakened:
            return
        name, settings = defense.links[0].spec.name, defense.links[0].spec.weakened
        reference = Reference(defense.how[0][0], {**defense.links[0].settings, **settings})
        weak = Chain(f"{name} weakened", (DEFENSES.load(reference),))
        for threat, attack in self.pairs(weak, keyed=weak.any(lambda spec: spec.keyed)):
            if attack.role == "recovery" and attack.any(lambda spec: name in spec.targets):
                self.cell("weakened", defense.text, 0, threat, attack, self.loaded.mergers[0], self.defend(weak, 0))

    def pairs(self, defense: Chain | None, keyed: bool) -> Iterator[tuple[ThreatModel, Chain]]:
        """Attacks with the threat models that grant what they need; the key's holder whatever the threat model."""
        for threat in self.loaded.threats:
            for attack in self.loaded.attacks:
                needs = attack.needs & ~Needs.KEY if attack.role == "ceiling" else attack.needs
                if needs & Needs.CODE and not keyed:
                    continue
                if threat.allows(needs):
                    yield threat, attack
                elif defense is not None:
                    self.graph.skipped.append(
                        {
                            "scenario": self.scenario.text,
                            "seed": self.seed,
                            "defense": defense.text,
                            "threat": threat.name,
                            "attack": attack.text,
                            "status": "skipped",
                            "reason": "needs more than the threat model grants",
                        }
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


def _single(chain: Chain, kind: str) -> Chain:
    if len(chain.links) > 1:
        raise BadInput(f"{chain.text!r} chains several plugins; a {kind} stands alone.")
    return chain


def _distinct(kind: str, chains: Sequence[Chain]) -> tuple[Chain, ...]:
    """The chains, none of which results could take for another one."""
    texts = [chain.text for chain in chains]
    twice = sorted({text for text in texts if texts.count(text) > 1})
    if twice:
        raise BadPlan(f"Two different {kind} are called {twice[0]!r}; give the one in the file a name of its own.")
    return tuple(chains)


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
