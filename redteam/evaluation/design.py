"""What a plan comes to: which pairings are compared, and at which place each of them counts."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

from redteam.evaluation.layout import Layout, withheld
from redteam.evaluation.pairings import Case, Ground, Pairing
from redteam.evaluation.resolve import Pipeline, Resolved
from redteam.evaluation.rows import Place
from redteam.evaluation.steps import Step
from redteam.plugins.contracts import Needs
from redteam.threat import ThreatModel

LENGTHS = (1.0, 0.5, 2.0)
"""Lengths of the victim's task vector, over the companions' mean, that a merge without attack tries beside its own."""


@dataclass
class Asked:
    """Everything that a plan asks of one place.

    Attributes:
        defense: The pipeline.
        threat: The threat model.
        pairings: What is computed whatever others find.
        cases: Ensembles.
        later: Pairings of the key's holder and of training anew: needed once an attack's failure is to count.
        beside: Pairings of what the answers alone give away, which is shown beside every verdict and decides none.
        layouts: Seed → where its steps are laid out.
        attacks: Text → attack, of all that may run here, no attack and the trivial ones left out.
    """

    place: Place
    defense: Pipeline
    threat: ThreatModel
    pairings: dict[Pairing, None] = field(default_factory=dict)
    cases: dict[Case, None] = field(default_factory=dict)
    later: dict[Pairing, None] = field(default_factory=dict)
    beside: dict[Pairing, None] = field(default_factory=dict)
    layouts: dict[int, Layout] = field(default_factory=dict)
    attacks: dict[str, Pipeline] = field(default_factory=dict)

    @property
    def keyed(self) -> bool:
        """Whether the defense draws on a key."""
        return self.defense.any(lambda spec: spec.keyed)

    @property
    def sealed(self) -> bool:
        """Whether what the defense releases does not run alone."""
        return self.defense.any(lambda spec: spec.sealed)

    @property
    def yardsticks(self) -> frozenset[str]:
        """The mergers that everything is merged with; others take turns on what is still locked."""
        return frozenset(pairing.merger for pairing in self.pairings)

    def ask(self, layout: Layout) -> None:
        """Takes in what a product of the plan asks here, on the scenario and under the seed of a layout."""
        self.layouts.setdefault(layout.seed, layout)
        for key in range(layout.part.keys if self.keyed else 1):
            lock = layout.defend(self.defense, key)
            for merger in layout.mergers(self.threat):
                self._on(layout, key, merger, lock)
            for name, mergers in layout.turns(self.threat):
                self._in_turn(layout, key, name, mergers, lock)

    def granted(self, attacks: Iterable[Pipeline]) -> Iterator[Pipeline]:
        """Attacks that the threat model grants what they need; ceilings whatever the threat model."""
        for attack in attacks:
            ceiling = attack.role in ("ceiling", "anew")
            allowed = ceiling or self.threat.allows(attack.needs)
            # What a sealed model runs with need not be drawn from a key.
            code = self.keyed or (ceiling and self.sealed)
            if allowed and (code or not attack.needs & Needs.CODE):
                yield attack

    def _on(self, layout: Layout, key: int, merger: Pipeline, lock: str) -> None:
        def pairing(attack: Pipeline) -> Pairing:
            return self._pairing(layout, key, attack, merger, lock)

        def enter(name: str, *groups: tuple[Pairing, ...]) -> None:
            self.cases[Case(name, self.place, layout.seed, key, merger.text, groups)] = None

        part = layout.part
        for attack in self.granted(part.attacks):
            if merger.whole and attack.role not in ("naive", "recovery"):
                continue  # what serves controls and verdicts
            if attack.role == "interface" and self.threat.weights:
                # Of the victim as it is: what its owner gives away who shows an interface in place of weights.
                self.beside[self._pairing(layout, key, attack, merger, layout.unlocked())] = None
                continue
            held = self.later if attack.role in ("ceiling", "anew") else self.pairings
            held[pairing(attack)] = None
            if attack.role in ("recovery", "interface"):
                self.attacks[attack.text] = attack
        if not self.threat.weights:
            return
        enter("", self._unattacked(layout, key, merger, lock))
        for gauntlet in part.gauntlets:
            members = list(self.granted(gauntlet.members))
            self.attacks.update((attack.text, attack) for attack in members)
            enter(gauntlet.text, *((pairing(member),) for member in members))

    def _unattacked(self, layout: Layout, key: int, merger: Pipeline, lock: str) -> tuple[Pairing, ...]:
        """The lock merged as it is, at several lengths of its task vector where there is a base."""
        naive = next(attack for attack in layout.part.attacks if attack.role == "naive")
        lengths = (None, *LENGTHS) if self.threat.anchor != "companion" else (None,)
        return tuple(self._pairing(layout, key, naive, merger, lock, length=length) for length in lengths)

    def _in_turn(self, layout: Layout, key: int, name: str, mergers: Iterable[Pipeline], lock: str) -> None:
        """Mergers one after the other: each without an attack first, then after every attack that ran before."""
        if not self.threat.weights:
            return
        members = [member for gauntlet in layout.part.gauntlets for member in gauntlet.members]
        attacks = [a for a in (*layout.part.attacks, *members) if a.role == "recovery"]
        attacks = list({attack.text: attack for attack in self.granted(attacks)}.values())
        groups = []
        for merger in mergers:
            groups.append(self._unattacked(layout, key, merger, lock))
            groups.append(tuple(self._pairing(layout, key, attack, merger, lock) for attack in attacks))
        made = Case(name, self.place, layout.seed, key, "", tuple(group for group in groups if group))
        self.cases[made] = None

    def _pairing(
        self, layout: Layout, key: int, attack: Pipeline, merger: Pipeline, lock: str, *, length: float | None = None
    ) -> Pairing:
        return layout.pairing(self.place, key, attack, merger, lock, self.threat, self.defense, length=length)


@dataclass
class Design:
    """A plan laid out.

    Attributes:
        steps: By name, inputs before what needs them.
        grounds: (scenario, seed, merger) → what everything there is measured against.
        asked: By place.
        skipped: What was asked for and is not planned: rows of cells.
        withheld: Sentences on mergers with data that a threat model does not grant.
        same_seeds: Sentences on seeds that are another seed over again.
        families: As those of the plan with its plugins imported.
    """

    steps: dict[str, Step] = field(default_factory=dict)
    grounds: dict[tuple[str, int, str], Ground] = field(default_factory=dict)
    asked: dict[Place, Asked] = field(default_factory=dict)
    skipped: dict[tuple[tuple[str, Any], ...], None] = field(default_factory=dict)
    withheld: dict[str, None] = field(default_factory=dict)
    same_seeds: list[str] = field(default_factory=list)
    families: Mapping[str, Mapping[str, str]] = field(default_factory=dict)

    def lay(self, layout: Layout) -> None:
        """Takes in what a product asks on the scenario and under the seed of a layout, and what it is measured against.

        Args:
            layout: Enters its steps here.
        """
        self.grounds.update((ground.where, ground) for ground in layout.grounds())
        for threat in layout.part.threats:
            self._withhold(layout, threat)
            for defense in layout.part.defenses:
                self._skip(layout, defense, threat)
                if layout.mergers(threat):
                    place = Place(layout.scenario.text, defense.text, threat.name)
                    self.asked.setdefault(place, Asked(place, defense, threat)).ask(layout)

    def _withhold(self, layout: Layout, threat: ThreatModel) -> None:
        """Says which mergers with data are left out; what the base is withheld from is part of the threat model."""
        for merger in layout.part.merging:
            if merger.links[0].spec.needs and (lacking := withheld(merger, threat)):
                self.withheld[f"The merger {merger.text} under {threat.name}: it takes {lacking}, not granted."] = None

    def _skip(self, layout: Layout, defense: Pipeline, threat: ThreatModel) -> None:
        """Says which pairings that were asked for are not planned, since they need more than is granted."""
        for attack in layout.part.attacks:
            if attack.role == "recovery" and not threat.allows(attack.needs):
                reason = "needs more than the threat model grants"
            elif attack.role in ("naive", "recovery") and not layout.mergers(threat):
                lacking = sorted({withheld(merger, threat) for merger in layout.part.merging} - {""})
                reason = f"no merger of the plan works without {' or '.join(lacking)}"
            else:
                continue
            entry = {"scenario": layout.scenario.text, "seed": layout.seed}
            entry |= {"defense": defense.text, "threat": threat.name}
            row = {**entry, "attack": attack.text, "status": "skipped", "reason": reason}
            self.skipped[tuple(row.items())] = None


def build(resolved: Resolved, identities: Mapping[tuple[str, int], str], layout: type[Layout] = Layout) -> Design:
    """Lays out a plan.

    Args:
        resolved: The plan and its plugins.
        identities: (scenario, seed) → digest of its weights and data. A seed with the digest of an earlier one is left
            out: it is no further retraining.
        layout: What lays out the steps.
    """
    design = Design(families=resolved.families)
    first: dict[tuple[str, str], int] = {}
    for (scenario, seed), identity in identities.items():
        if identity and first.setdefault((scenario, identity), seed) != seed:
            design.same_seeds.append(
                f"Seed {seed} of {scenario}: it gives the same models and data as seed {first[scenario, identity]} "
                "and counts as that one."
            )
    for part in resolved.parts:
        for pipeline in part.scenarios:
            for seed in part.seeds:
                identity = identities[pipeline.text, seed]
                if not identity or first[pipeline.text, identity] == seed:
                    design.lay(layout(design.steps, part, pipeline, seed, identity))
    return design
