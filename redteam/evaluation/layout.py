"""The steps behind pairings: locks, attacks and merges on one scenario under one seed, each laid out once."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

from redteam.devices import CPU
from redteam.evaluation.pairings import Ground, Pairing, Steps
from redteam.evaluation.resolve import Part, Pipeline
from redteam.evaluation.rows import Place
from redteam.evaluation.steps import Step
from redteam.plugins.contracts import Needs
from redteam.plugins.reference import Reference, chain_text
from redteam.plugins.registry import DEFENSES
from redteam.plugins.settings import settings_of
from redteam.tasks import Split
from redteam.threat import DATA, OWNER, ThreatModel

_COEFFICIENTS = 30


class Layout:
    """The steps of one product of a plan on one scenario under one seed.

    Args:
        steps: Where they are entered, by name, inputs before what needs them.
        part: The product.
        scenario: One of its scenarios.
        seed: Which of its retrainings.
        identity: Digest of its weights and data.
        split: What is scored on: the test data, unless something is tuned.
    """

    def __init__(
        self,
        steps: dict[str, Step],
        part: Part,
        scenario: Pipeline,
        seed: int,
        identity: str,
        *,
        split: Split = "test",
    ) -> None:
        self.steps, self.part, self.scenario, self.seed = steps, part, scenario, seed
        self.where = {
            "scenario": identity,
            "seed": seed,
            **({} if split == "test" else {"split": split}),
            **({} if part.device == CPU else {"device": part.device}),  # where the last bits are others
        }
        self.how = {"scenario": scenario.how[0]}
        self.alone = ""
        self.tunes: dict[str, str] = {}

    def grounds(self) -> list[Ground]:
        """What theft lies between, for every merger; merges can be laid out after that."""
        grounds = []
        self.alone = self.step("alone", "experts and base alone", {}, {})
        for merger in self.part.merging:
            self.tunes[merger.text] = self.tune(merger)
            without = self.merge("companions", None, merger)
            reference = self.merge("unlocked victim", self.unlocked(), merger)
            names = (self.alone, self.tunes[merger.text], without, reference)
            grounds.append(Ground(self.scenario.text, self.seed, merger.text, *names))
        return grounds

    def tune(self, merger: Pipeline) -> str:
        """The step that chooses a merger's setting, each of which is tried in a step of its own."""
        tried = {
            str(place): self.step(
                "try",
                " ".join([merger.text, *(f"with {name} {value:g}" for name, value in setting.items())]),
                {"merger": merger.identity, "setting": setting},
                {"alone": self.alone},
                {"merger": merger.how},
            )
            for place, setting in enumerate(_grid(merger))
        }
        return self.step("tune", f"coefficient of {merger.text}", {"merger": merger.identity}, tried)

    def mergers(self, threat: ThreatModel) -> tuple[Pipeline, ...]:
        """Those that everything is merged with: of a gauntlet the first one that can be used.

        None where no verdict would count one of them.
        """
        firsts = (merger for gauntlet in self.part.turns for merger in self._usable(gauntlet.members, threat)[:1])
        found = (*self._usable(self.part.mergers, threat), *firsts)
        return tuple({merger.text: merger for merger in found}.values()) if any(not m.whole for m in found) else ()

    def turns(self, threat: ThreatModel) -> Iterator[tuple[str, tuple[Pipeline, ...]]]:
        """Gauntlets of mergers, by name, with those of their members that merge only what is still locked."""
        always = {merger.text for merger in self.mergers(threat)}
        for gauntlet in self.part.turns:
            yield gauntlet.text, tuple(m for m in self._usable(gauntlet.members, threat) if m.text not in always)

    def _usable(self, mergers: Sequence[Pipeline], threat: ThreatModel) -> tuple[Pipeline, ...]:
        """Where the base is withheld, the ones that need none; those with data where they are granted."""
        return tuple(merger for merger in mergers if not withheld(merger, threat))

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
            _role(attack, threat),
            merger.text,
            steps,
            code=Needs.CODE in attack.needs,
            labels=threat.labels,
            whole=merger.whole,
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

    def plant(
        self, label: str, claims: Sequence[tuple[str, str]], key: int = 0, changed: Sequence[str] | None = None
    ) -> str:
        """A lock from each (kind of site, group), at the sites that hold one of some tensors; at all by default."""
        extent = {} if changed is None else {"changed": list(changed)}
        return self.lock(label, {"plant": [list(claim) for claim in claims], **extent}, {}, key)

    def lock(
        self, label: str, settings: dict[str, Any], how: dict[str, Any], key: int, inputs: dict[str, str] | None = None
    ) -> str:
        return self.step("lock", f"lock {label}", {**settings, "key": key}, inputs or {}, how, makes=True)

    def attack(self, threat: ThreatModel, attack: Pipeline, lock: str, label: str, key: int) -> str:
        """The step of an attack on a lock, which may need further locks of the same kind."""
        held = OWNER if attack.role in ("ceiling", "anew") else threat
        locked = self.steps[lock]
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
            {
                "attack": attack.how,
                "threat": held.name,
                "defense": locked.how.get("defense", ()),
                "fresh": locked.settings.get("fresh", False),
            },
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
        made = Step.of(
            kind,
            f"{label} ({self.scenario.text}, seed {self.seed})",
            settings={**self.where, **settings},
            inputs=inputs,
            how={**self.how, **(how or {})},
            makes=makes,
        )
        self.steps.setdefault(made.name, made)
        return made.name


def _role(attack: Pipeline, threat: ThreatModel) -> str:
    """What an attack counts as: a guess at the key is no trivial attacker, and answers are all that some have."""
    if attack.role == "trivial" and Needs.CODE in attack.needs:
        return "guess"
    return "recovery" if attack.role == "interface" and not threat.weights else attack.role


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


def withheld(merger: Pipeline, threat: ThreatModel) -> str:
    """What a merger needs and a threat model does not grant, in words; empty where that is nothing."""
    (link,) = merger.links
    if link.spec.needs_base and threat.anchor == "companion":
        return "the base"
    samples = int(link.settings.get("samples", 0))
    if not threat.lends(link.spec.needs, samples):
        return f"{samples} {'labelled samples' if Needs.SAMPLES in link.spec.needs else 'inputs'} of the victim's task"
    return ""


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
