"""From a plan to cells: every pairing, the merges they are measured against, and the controls that belong to them."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from redteam.evaluation.graph import Case, Cell, Graph, Ground
from redteam.evaluation.loaded import Chain, Ensemble, Loaded, Part
from redteam.evaluation.nodes import Node
from redteam.plugins.contracts import Needs
from redteam.plugins.reference import Reference, chain_text
from redteam.plugins.registry import DEFENSES
from redteam.plugins.settings import settings_of
from redteam.tasks import Split
from redteam.threat import DATA, OWNER, ThreatModel

_COEFFICIENTS = 30
_SECOND_RELEASE = 10**6  # far from the keys that a plan counts, so that releases are independent of all of them
_OWN_KEY = 2 * 10**6  # and so are those of an attacker's expert that doesn't share the victim's


def build(loaded: Loaded, identities: Mapping[tuple[str, int], str]) -> Graph:
    """Lays out every cell of a plan.

    Args:
        loaded: The plan and its plugins.
        identities: (scenario, seed) → digest of its weights and data.
    """
    graph = Graph()
    for part in loaded.parts:
        for scenario in part.scenarios:
            for seed in part.seeds:
                Layout(graph, part, scenario, seed, identities[scenario.text, seed]).lay()
    return graph


class Layout:
    """The cells of one scenario under one seed.

    Args:
        graph: Where they are entered.
        part: The product that they come from.
        scenario: One of its scenarios.
        seed: Which of its retrainings.
        identity: Digest of its weights and data.
        split: What is scored on: the test data, unless something is tuned.
    """

    def __init__(
        self, graph: Graph, part: Part, scenario: Chain, seed: int, identity: str, *, split: Split = "test"
    ) -> None:
        self.graph, self.part, self.scenario, self.seed = graph, part, scenario, seed
        self.where = {"scenario": identity, "seed": seed, **({} if split == "test" else {"split": split})}
        self.how = {"scenario": scenario.how[0]}
        self.tunes: dict[str, str] = {}

    def lay(self) -> None:
        self.grounds()
        for defense in self.part.defenses:
            keyed = defense.any(lambda spec: spec.keyed)
            for key in range(self.part.keys if keyed else 1):
                lock = self.defend(defense, key)
                for threat, attack in self.pairs(self.part.attacks, keyed):
                    for merger in self.mergers(threat):
                        self.ask("cell", defense, key, threat, attack, merger, lock)
                for gauntlet in self.part.gauntlets:
                    self.cases(gauntlet, defense, key, lock)
            self.skip(defense)
            for threat, attack in self.pairs(self.part.attacks, keyed):
                if self.has_floor(threat, attack):
                    self.keep(self.floor(defense, threat, attack))
            self.weakened(defense)
        unlocked = self.unlocked()
        for threat, attack in self.pairs(self.part.everyone, keyed=False):
            if attack.role != "recovery" or not self.mergers(threat):
                continue
            first = self.mergers(threat)[0]
            if not attack.needs & DATA:
                self.ask("harmless", None, 0, threat, attack, first, unlocked)
            for site, group in _claims(attack):
                lock = self.plant(site, group)
                twin = self.attack(threat, attack, unlocked, "unlocked victim", 0)
                self.ask("planted", None, 0, threat, attack, first, lock, twin=twin, site=site, group_name=group.name)

    def grounds(self) -> None:
        """What theft lies between, for every merger."""
        alone = self.node("alone", "experts and base alone", {}, {})
        for merger in self.part.mergers:
            self.tunes[merger.text] = self.node(
                "tune",
                f"coefficient of {merger.text}",
                {"merger": merger.identity, "grid": _grid(merger)},
                {"alone": alone},
                {"merger": merger.how},
            )
            without = self.merge("companions", None, merger)
            reference = self.merge("unlocked victim", self.unlocked(), merger)
            where = (self.scenario.text, self.seed, merger.text)
            self.graph.grounds[Ground(*where, alone, self.tunes[merger.text], without, reference)] = None

    def cases(self, gauntlet: Ensemble, defense: Chain, key: int, lock: str) -> None:
        """What a gauntlet goes through: no attack at all, then every member that is granted what it needs."""
        keyed = defense.any(lambda spec: spec.keyed)
        naive = [attack for attack in self.part.attacks if attack.role == "naive"]
        for threat in self.part.threats:
            for merger in self.mergers(threat):
                case = Case(gauntlet.text, self.scenario.text, self.seed, defense.text, key, threat.name, merger.text)
                members: dict[Cell, Chain] = {}
                for _, attack in self.pairs((*naive, *gauntlet.members), keyed, (threat,)):
                    members[self.cell("cell", defense, key, threat, attack, merger, lock)] = attack
                self.graph.cases[case] = tuple(members)
                for cell, attack in members.items():
                    if cell not in self.graph.cells:
                        floor = self.floor(defense, threat, attack) if self.has_floor(threat, attack) else None
                        self.graph.optional.setdefault(cell, floor)

    def has_floor(self, threat: ThreatModel, attack: Chain) -> bool:
        """Whether an attack must show that it takes nothing where nothing is."""
        return attack.role == "recovery" and not attack.needs & DATA and bool(self.mergers(threat))

    def floor(self, defense: Chain, threat: ThreatModel, attack: Chain) -> Cell:
        lock = self.defend(defense, 0, fresh=True)
        return self.cell("floor", defense, 0, threat, attack, self.mergers(threat)[0], lock)

    def weakened(self, defense: Chain) -> None:
        if len(defense.links) > 1 or not defense.links[0].spec.weakened:
            return
        weak = _weak(defense)
        name = defense.links[0].spec.name
        for threat, attack in self.pairs(self.part.everyone, weak.any(lambda spec: spec.keyed)):
            if attack.role == "recovery" and attack.any(lambda spec: name in spec.targets) and self.mergers(threat):
                lock = self.defend(weak, 0)
                self.ask("weakened", defense, 0, threat, attack, self.mergers(threat)[0], lock)

    def pairs(
        self, attacks: Sequence[Chain], keyed: bool, threats: Sequence[ThreatModel] = ()
    ) -> Iterator[tuple[ThreatModel, Chain]]:
        """Attacks with the threat models that grant what they need; ceilings whatever the threat model."""
        for threat in threats or self.part.threats:
            for attack in attacks:
                allowed = attack.role in ("ceiling", "anew") or threat.allows(attack.needs)
                if allowed and (keyed or not attack.needs & Needs.CODE):
                    yield threat, attack

    def mergers(self, threat: ThreatModel) -> tuple[Chain, ...]:
        """Those that can be used: where the base is withheld, the ones that need none."""
        if threat.anchor != "companion":
            return self.part.mergers
        return tuple(merger for merger in self.part.mergers if not merger.links[0].spec.needs_base)

    def skip(self, defense: Chain) -> None:
        """Says which pairings that were asked for are not planned, since they need more than is granted."""
        for threat in self.part.threats:
            for attack in self.part.attacks:
                where = {"scenario": self.scenario.text, "seed": self.seed, "defense": defense.text}
                if attack.role == "recovery" and not threat.allows(attack.needs):
                    reason = "needs more than the threat model grants"
                elif attack.role in ("naive", "recovery") and not self.mergers(threat):
                    reason = "no merger of the plan works without the base"
                else:
                    continue
                entry = {**where, "threat": threat.name, "attack": attack.text, "status": "skipped", "reason": reason}
                self.graph.skipped[tuple(entry.items())] = None

    def ask(
        self,
        group: str,
        defense: Chain | None,
        key: int,
        threat: ThreatModel,
        attack: Chain,
        merger: Chain,
        lock: str,
        **rest: str,
    ) -> None:
        """Lays out a cell that is computed whatever others find."""
        self.keep(self.cell(group, defense, key, threat, attack, merger, lock, **rest))

    def keep(self, cell: Cell) -> None:
        self.graph.cells[cell] = None
        self.graph.optional.pop(cell, None)

    def cell(
        self,
        group: str,
        defense: Chain | None,
        key: int,
        threat: ThreatModel,
        attack: Chain,
        merger: Chain,
        lock: str,
        **rest: str,
    ) -> Cell:
        planted = f"{rest['group_name']} planted at {rest['site']}" if "site" in rest else ""
        name = defense.text if defense else ""
        label = planted or {"harmless": "the unlocked victim", "floor": f"{name} on a fresh victim"}.get(group, name)
        if attack.role == "anew":
            recovered, label = self.attack(threat, attack, self.unused(), "the base", 0), "the base"
        else:
            recovered = self.attack(threat, attack, lock, label, key)
        if attack.role == "recovery" and attack.needs & DATA:
            control = self.attack(threat, attack, self.unused(), "the base", 0)
            rest["unused"] = self.merge(f"{attack.text} from the base", control, merger)
        return Cell(
            group,
            self.scenario.text,
            self.seed,
            name,
            key,
            threat.name,
            attack.text,
            attack.role,
            merger.text,
            Needs.CODE in attack.needs,
            threat.labels,
            lock,
            recovered,
            merge=self.merge(f"{attack.text} on {label}", recovered, merger),
            naive=self.merge(label, lock, merger),
            reference=self.reference(defense, merger) if defense is not None and group != "weakened" else "",
            **rest,
        )

    def reference(self, defense: Chain, merger: Chain) -> str:
        """The merge with the victim as a chain prepares it for its lock; empty where it does not."""
        first = prepared(defense)
        return self.merge(f"{first.text} unlocked", self.defend(first, 0), merger) if first else ""

    def defend(self, defense: Chain, key: int, *, fresh: bool = False) -> str:
        what = f"{defense.text} on {'a fresh victim' if fresh else 'the victim'}"
        first = prepared(defense)
        inputs = {"prepared": self.defend(first, 0, fresh=fresh)} if first else {}
        return self.lock(what, {"defense": defense.identity, "fresh": fresh}, {"defense": defense.how}, key, inputs)

    def unlocked(self) -> str:
        return self.lock("unlocked victim", {"unlocked": True}, {}, 0)

    def unused(self) -> str:
        """The base under the victim's head: where attacks with data start that have no use of the victim."""
        return self.lock("the base in the victim's place", {"unused": True}, {}, 0)

    def plant(self, site: str, group: Any) -> str:
        return self.lock(f"{group.name} planted at {site}", {"plant": [site, group.name]}, {}, 0)

    def lock(
        self, label: str, settings: dict[str, Any], how: dict[str, Any], key: int, inputs: dict[str, str] | None = None
    ) -> str:
        return self.node("lock", f"lock {label}", {**settings, "key": key}, inputs or {}, how, makes=True)

    def attack(self, threat: ThreatModel, attack: Chain, lock: str, label: str, key: int) -> str:
        held = OWNER if attack.role in ("ceiling", "anew") else threat
        locked = self.graph.nodes[lock]
        inputs = {"lock": lock, **locked.inputs}
        again = {name: value for name, value in locked.settings.items() if name not in (*self.where, "key")}
        if Needs.SIBLINGS in attack.needs:
            its = key if held.shared else _OWN_KEY + key
            sibling = {**again, "sibling": True}
            inputs["sibling"] = self.lock(f"{label}, on a companion", sibling, dict(locked.how), its)
        if Needs.RELEASES in attack.needs:
            further = _SECOND_RELEASE + key
            inputs["release"] = self.lock(f"{label}, again", again, dict(locked.how), further, dict(locked.inputs))
        return self.node(
            "attack",
            f"attack {attack.text} on {label}",
            {"attack": attack.identity, "held": held.matters(attack.needs), "key": key},
            inputs,
            {"attack": attack.how, "threat": held.name, "defense": locked.how.get("defense", ())},
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


def prepared(defense: Chain) -> Chain | None:
    """The links that train the victim for the lock that follows them; `None` if there are none, or no lock follows."""
    count = 0
    while count < len(defense.links) and defense.links[count].spec.prepares:
        count += 1
    if not 0 < count < len(defense.links):
        return None
    links = defense.links[:count]
    shown = tuple(Reference(link.reference.plugin, link.reference.settings) for link in links)
    return Chain(chain_text(shown), links)


def _weak(defense: Chain) -> Chain:
    """The defense under the settings in which it must fall to whoever was made for it."""
    link = defense.links[0]
    reference = Reference(defense.how[0][0], {**link.settings, **link.spec.weakened})
    return Chain(f"{link.spec.name} weakened", (DEFENSES.load(reference),))


def _claims(attack: Chain) -> Sequence[tuple[str, Any]]:
    """What a chain claims to break: whatever one of its links does."""
    claims = {claim for link in attack.links for claim in link.spec.breaks}
    return sorted(claims, key=lambda claim: (claim[0], claim[1].name))


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
