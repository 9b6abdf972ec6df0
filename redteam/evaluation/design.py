"""What a plan comes to: which pairings are compared, at which place each of them counts, and the steps behind them."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from redteam.evaluation.resolve import Ensemble, Part, Pipeline, Resolved
from redteam.evaluation.rows import ControlKind, Place
from redteam.evaluation.steps import Step
from redteam.plugins.contracts import Needs
from redteam.plugins.reference import Reference, chain_text
from redteam.plugins.registry import DEFENSES
from redteam.plugins.settings import settings_of
from redteam.tasks import Split
from redteam.threat import DATA, OWNER, ThreatModel

_COEFFICIENTS = 30
LENGTHS = (1.0, 0.5, 2.0)
"""Lengths of the victim's task vector, over the companions' mean, that a merge without attack tries beside its own."""


@dataclass(frozen=True)
class Steps:
    """Names of the steps behind a pairing.

    Attributes:
        lock, recovered, merge: The protected model, what the attack made of it, and the merge of that, where it counts.
        naive: The merge of the protected model as it is, where it counts.
        twin: The same attack on the unlocked victim, for planted locks.
        unused: The merge of the same attack from the base, for attacks with data of the victim's task.
        reference: The merge of the victim as it was prepared for the lock, where a pipeline trains it before it locks
            it: what the pairing is measured against in place of the merge with the unlocked victim.
    """

    lock: str
    recovered: str
    merge: str = ""
    naive: str = ""
    twin: str = ""
    unused: str = ""
    reference: str = ""

    def __iter__(self) -> Iterator[str]:
        return (name for name in vars(self).values() if name)


@dataclass(frozen=True)
class Pairing:
    """An attack on a lock, merged: what is compared. For a control, `place` may name no defense.

    Attributes:
        attack: The pipeline's text.
        role: The attack's role; `"guess"` for a trivial attacker who runs the defense's code, and so holds the victim.
        control: Which control it serves; `None` for what the plan asks for.
        site, group: Of planted locks, in words.
        code: Whether the attack runs the defense's own code.
        labels: Labelled samples of the victim's task that the threat model grants; `None` for all.
    """

    place: Place
    seed: int
    key: int
    attack: str
    role: str
    merger: str
    steps: Steps
    control: ControlKind | None = None
    site: str = ""
    group: str = ""
    code: bool = False
    labels: int | None = 0

    @property
    def data(self) -> bool:
        """Whether the attack uses data of the victim's task."""
        return bool(self.steps.unused)


@dataclass(frozen=True)
class Ground:
    """What a scenario under one seed and merger is measured against: names of steps."""

    scenario: str
    seed: int
    merger: str
    alone: str
    tune: str
    without: str
    reference: str

    @property
    def where(self) -> tuple[str, int, str]:
        """Scenario, seed, merger."""
        return self.scenario, self.seed, self.merger

    def __iter__(self) -> Iterator[str]:
        return iter((self.alone, self.tune, self.without, self.reference))


@dataclass(frozen=True)
class Case:
    """One lock under one key and seed, merged with one merger: what the members of an ensemble run on in turn.

    Attributes:
        gauntlet: Its name; empty for merging without an attack at several lengths of the task vector.
        members: In the order in which they run.
    """

    gauntlet: str
    place: Place
    seed: int
    key: int
    merger: str
    members: tuple[Pairing, ...]


@dataclass
class Asked:
    """Everything that a plan asks of one place.

    Attributes:
        defense: The pipeline.
        threat: The threat model.
        pairings: What is computed whatever others find.
        cases: Ensembles.
        later: Pairings of the key's holder and of training anew: needed once an attack's failure is to count.
        layouts: Seed → where its steps are laid out.
        attacks: Text → attack, of all that may run here, no attack and the trivial ones left out.
    """

    place: Place
    defense: Pipeline
    threat: ThreatModel
    pairings: dict[Pairing, None] = field(default_factory=dict)
    cases: dict[Case, None] = field(default_factory=dict)
    later: dict[Pairing, None] = field(default_factory=dict)
    layouts: dict[int, Layout] = field(default_factory=dict)
    attacks: dict[str, Pipeline] = field(default_factory=dict)

    @property
    def keyed(self) -> bool:
        """Whether the defense draws on a key."""
        return self.defense.any(lambda spec: spec.keyed)


@dataclass
class Design:
    """A plan laid out.

    Attributes:
        steps: By name, inputs before what needs them.
        grounds: (scenario, seed, merger) → what everything there is measured against.
        asked: By place.
        skipped: What was asked for and is not planned: rows of cells.
        same_seeds: Sentences on seeds that are another seed over again.
    """

    steps: dict[str, Step] = field(default_factory=dict)
    grounds: dict[tuple[str, int, str], Ground] = field(default_factory=dict)
    asked: dict[Place, Asked] = field(default_factory=dict)
    skipped: dict[tuple[tuple[str, Any], ...], None] = field(default_factory=dict)
    same_seeds: list[str] = field(default_factory=list)

    def add(self, step: Step) -> str:
        """Takes a step in, once; its name."""
        self.steps.setdefault(step.name, step)
        return step.name


def build(resolved: Resolved, identities: Mapping[tuple[str, int], str]) -> Design:
    """Lays out a plan.

    Args:
        resolved: The plan and its plugins.
        identities: (scenario, seed) → digest of its weights and data. A seed with the digest of an earlier one is left
            out: it is no further retraining.
    """
    design = Design()
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
                    Layout(design, part, pipeline, seed, identity).lay()
    return design


class Layout:
    """The steps of one product of a plan on one scenario under one seed.

    Args:
        design: Where they are entered.
        part: The product.
        scenario: One of its scenarios.
        seed: Which of its retrainings.
        identity: Digest of its weights and data.
        split: What is scored on: the test data, unless something is tuned.
    """

    def __init__(
        self, design: Design, part: Part, scenario: Pipeline, seed: int, identity: str, *, split: Split = "test"
    ) -> None:
        self.design, self.part, self.scenario, self.seed = design, part, scenario, seed
        self.where = {"scenario": identity, "seed": seed, **({} if split == "test" else {"split": split})}
        self.how = {"scenario": scenario.how[0]}
        self.alone = ""
        self.tunes: dict[str, str] = {}

    def lay(self) -> None:
        """Enters the grounds and everything that is asked for."""
        self.grounds()
        for threat in self.part.threats:
            for defense in self.part.defenses:
                self.ask(defense, threat)

    def grounds(self) -> None:
        """What theft lies between, for every merger."""
        self.alone = self.step("alone", "experts and base alone", {}, {})
        for merger in self.part.mergers:
            self.tunes[merger.text] = self.step(
                "tune",
                f"coefficient of {merger.text}",
                {"merger": merger.identity, "grid": _grid(merger)},
                {"alone": self.alone},
                {"merger": merger.how},
            )
            without = self.merge("companions", None, merger)
            reference = self.merge("unlocked victim", self.unlocked(), merger)
            ground = Ground(
                self.scenario.text, self.seed, merger.text, self.alone, self.tunes[merger.text], without, reference
            )
            self.design.grounds[ground.where] = ground

    def ask(self, defense: Pipeline, threat: ThreatModel) -> None:
        """What is asked of one place under this seed."""
        place = Place(self.scenario.text, defense.text, threat.name)
        self.skip(defense, threat)
        mergers = self.mergers(threat)
        if not mergers:
            return
        asked = self.design.asked.setdefault(place, Asked(place, defense, threat))
        asked.layouts.setdefault(self.seed, self)
        for key in range(self.part.keys if asked.keyed else 1):
            lock = self.defend(defense, key)
            for merger in mergers:
                for attack in self.granted(self.part.attacks, asked):
                    pairing = self.pairing(place, key, attack, merger, lock, threat, defense)
                    if attack.role in ("ceiling", "anew"):
                        asked.later[pairing] = None
                    else:
                        asked.pairings[pairing] = None
                    if attack.role == "recovery":
                        asked.attacks[attack.text] = attack
                naive = next(attack for attack in self.part.attacks if attack.role == "naive")
                lengths = (None, *LENGTHS) if threat.anchor != "companion" else (None,)
                members = [
                    self.pairing(place, key, naive, merger, lock, threat, defense, length=length) for length in lengths
                ]
                self.case("", asked, key, merger, members)
                for gauntlet in self.part.gauntlets:
                    self.gauntlet(gauntlet, asked, key, merger, lock)

    def gauntlet(self, gauntlet: Ensemble, asked: Asked, key: int, merger: Pipeline, lock: str) -> None:
        members = list(self.granted(gauntlet.members, asked))
        asked.attacks.update((attack.text, attack) for attack in members)
        pairings = [self.pairing(asked.place, key, a, merger, lock, asked.threat, asked.defense) for a in members]
        self.case(gauntlet.text, asked, key, merger, pairings)

    def case(self, name: str, asked: Asked, key: int, merger: Pipeline, members: Sequence[Pairing]) -> None:
        asked.cases[Case(name, asked.place, self.seed, key, merger.text, tuple(members))] = None

    def granted(self, attacks: Iterable[Pipeline], asked: Asked) -> Iterator[Pipeline]:
        """Attacks that the threat model grants what they need; ceilings whatever the threat model."""
        for attack in attacks:
            allowed = attack.role in ("ceiling", "anew") or asked.threat.allows(attack.needs)
            if allowed and (asked.keyed or not attack.needs & Needs.CODE):
                yield attack

    def mergers(self, threat: ThreatModel) -> tuple[Pipeline, ...]:
        """Those that can be used: where the base is withheld, the ones that need none."""
        if threat.anchor != "companion":
            return self.part.mergers
        return tuple(merger for merger in self.part.mergers if not merger.links[0].spec.needs_base)

    def skip(self, defense: Pipeline, threat: ThreatModel) -> None:
        """Says which pairings that were asked for are not planned, since they need more than is granted."""
        for attack in self.part.attacks:
            if attack.role == "recovery" and not threat.allows(attack.needs):
                reason = "needs more than the threat model grants"
            elif attack.role in ("naive", "recovery") and not self.mergers(threat):
                reason = "no merger of the plan works without the base"
            else:
                continue
            entry = {"scenario": self.scenario.text, "seed": self.seed, "defense": defense.text, "threat": threat.name}
            row = {**entry, "attack": attack.text, "status": "skipped", "reason": reason}
            self.design.skipped[tuple(row.items())] = None

    def pairing(
        self,
        place: Place,
        key: int,
        attack: Pipeline,
        merger: Pipeline,
        lock: str,
        threat: ThreatModel,
        defense: Pipeline | None,
        *,
        length: float | None = None,
        label: str = "",
        reference: bool = True,
        twin: str = "",
        merged: bool = True,
        naive: bool = True,
        **control: Any,
    ) -> Pairing:
        """An attack on a lock, and the merge of what comes of it.

        Args:
            place: Where it counts.
            key: Which key the lock is under.
            attack: The attack.
            merger: How the result is merged.
            lock: The step that makes the lock.
            threat: What the attacker has.
            defense: The lock's pipeline, if it has one.
            length: Of the victim's task vector in the merge, over the companions' mean; its own by default.
            label: What progress lines call the lock.
            reference: Whether a victim that was prepared for its lock is what the pairing is measured against.
            twin: The same attack on the unlocked victim.
            merged: Whether what the attack returns is merged.
            naive: Whether the lock is merged as it is.
            control: Fields of the pairing that say which control it serves.
        """
        label = label or place.defense
        unused = ""
        if attack.role == "anew":
            recovered, label = self.attack(threat, attack, self.unused(), "the base", 0), "the base"
        else:
            recovered = self.attack(threat, attack, lock, label, key)
        if merged and attack.role == "recovery" and attack.needs & DATA:
            from_base = self.attack(threat, attack, self.unused(), "the base", 0)
            unused = self.merge(f"{attack.text} from the base", from_base, merger)
        prepared = self.reference(defense, merger) if defense is not None and reference else ""
        # Without an attack the lock itself is merged.
        victim = (label, lock) if attack.role == "naive" else (f"{attack.text} on {label}", recovered)
        merge = self.merge(*victim, merger, length=length) if merged else ""
        text = attack.text if length is None else f"{attack.text}×{length:g}"
        steps = Steps(lock, recovered, merge, self.merge(label, lock, merger) if naive else "", twin, unused, prepared)
        return Pairing(
            place,
            self.seed,
            key,
            text,
            "guess" if attack.role == "trivial" and Needs.CODE in attack.needs else attack.role,
            merger.text,
            steps,
            code=Needs.CODE in attack.needs,
            labels=threat.labels,
            **control,
        )

    def reference(self, defense: Pipeline, merger: Pipeline) -> str:
        """The merge with the victim as a pipeline prepares it for its lock; empty where it does not."""
        first = prepared(defense)
        return self.merge(f"{first.text} unlocked", self.defend(first, 0), merger) if first else ""

    def defend(self, defense: Pipeline, key: int, *, fresh: bool = False) -> str:
        """The step that puts a defense on the victim, or on one that was never trained."""
        what = f"{defense.text} on {'a fresh victim' if fresh else 'the victim'}"
        first = prepared(defense)
        inputs = {"prepared": self.defend(first, 0, fresh=fresh)} if first else {}
        return self.lock(what, {"defense": defense.identity, "fresh": fresh}, {"defense": defense.how}, key, inputs)

    def unlocked(self) -> str:
        return self.lock("unlocked victim", {"unlocked": True}, {}, 0)

    def unused(self) -> str:
        """The base under the victim's head: where attacks with data start that have no use of the victim."""
        return self.lock("the base in the victim's place", {"unused": True}, {}, 0)

    def drowned(self) -> str:
        """The victim under so much noise that nothing is left to find."""
        return self.lock("the victim drowned in noise", {"drowned": True}, {}, 0)

    def plant(self, label: str, claims: Sequence[tuple[str, str]], key: int = 0, extent: str = "") -> str:
        """A lock from each (kind of site, group), at the sites that another lock changed where `extent` names it."""
        return self.lock(
            label, {"plant": [list(claim) for claim in claims]}, {}, key, {"extent": extent} if extent else {}
        )

    def lock(
        self, label: str, settings: dict[str, Any], how: dict[str, Any], key: int, inputs: dict[str, str] | None = None
    ) -> str:
        return self.step("lock", f"lock {label}", {**settings, "key": key}, inputs or {}, how, makes=True)

    def attack(self, threat: ThreatModel, attack: Pipeline, lock: str, label: str, key: int) -> str:
        """The step of an attack on a lock, which may need further locks of the same kind."""
        held = OWNER if attack.role in ("ceiling", "anew") else threat
        locked = self.design.steps[lock]
        inputs = {"lock": lock, **{role: name for role, name in locked.inputs.items() if role == "prepared"}}
        again = {name: value for name, value in locked.settings.items() if name not in (*self.where, "key")}
        if Needs.SIBLINGS in attack.needs:
            sibling = {**again, "sibling": True, **({} if held.shared else {"stream": "companion"})}
            inputs["sibling"] = self.lock(f"{label}, on a companion", sibling, dict(locked.how), key)
        if Needs.RELEASES in attack.needs:
            release = {**again, "stream": "release"}
            inputs["release"] = self.lock(f"{label}, again", release, dict(locked.how), key, dict(locked.inputs))
        return self.step(
            "attack",
            f"attack {attack.text} on {label}",
            {"attack": attack.identity, "held": held.matters(attack.needs), "key": key},
            inputs,
            {"attack": attack.how, "threat": held.name, "defense": locked.how.get("defense", ())},
            makes=True,
        )

    def merge(self, label: str, victim: str | None, merger: Pipeline, *, length: float | None = None) -> str:
        """The step that merges the companions with a checkpoint in the victim's place, and scores the result."""
        inputs = {"tune": self.tunes[merger.text], **({"victim": victim} if victim else {})}
        settings: dict[str, Any] = {"merger": merger.identity}
        if length is not None:
            inputs["alone"] = self.alone
            settings["scale"] = length
            label = f"{label}, length {length:g}"
        return self.step("merge", f"merge with {label}", settings, inputs, {"merger": merger.how})

    def step(
        self,
        kind: Any,
        label: str,
        settings: dict[str, Any],
        inputs: dict[str, str],
        how: dict[str, Any] | None = None,
        makes: bool = False,
    ) -> str:
        return self.design.add(
            Step.of(
                kind,
                f"{label} ({self.scenario.text}, seed {self.seed})",
                settings={**self.where, **settings},
                inputs=inputs,
                how={**self.how, **(how or {})},
                makes=makes,
            )
        )


def prepared(defense: Pipeline) -> Pipeline | None:
    """The links that train the victim for the lock that follows them; `None` if there are none, or no lock follows."""
    count = 0
    while count < len(defense.links) and defense.links[count].spec.prepares:
        count += 1
    if not 0 < count < len(defense.links):
        return None
    links = defense.links[:count]
    shown = tuple(Reference(link.reference.plugin, link.reference.settings) for link in links)
    return Pipeline(chain_text(shown), links)


def weakened(defense: Pipeline) -> Pipeline | None:
    """The weakened variant, which every attack that targets this defense must break; `None` if it ships none."""
    link = defense.links[0]
    if len(defense.links) > 1 or not link.spec.weakened:
        return None
    reference = Reference(defense.how[0][0], {**link.settings, **link.spec.weakened})
    return Pipeline(f"{link.spec.name} weakened", (DEFENSES.load(reference),))


def _grid(merger: Pipeline) -> list[dict[str, float]]:
    """The settings among which the attacker chooses on the companions-only merge; never zero."""
    spec = merger.links[0].spec
    if spec.tunable is None or spec.tunable in merger.links[0].reference.settings:
        return [{}]
    bounds = settings_of(merger.links[0].function)[spec.tunable].range
    assert bounds is not None
    step = (bounds.high - bounds.low) / (_COEFFICIENTS - 1)
    values = [round(bounds.low + step * index, 6) for index in range(_COEFFICIENTS)]
    return [{spec.tunable: value} for value in values if value != 0]
