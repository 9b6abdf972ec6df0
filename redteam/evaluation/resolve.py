"""A plan with its plugins imported: whatever is wrong with a name or a setting shows here, before anything runs."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, get_args

from redteam.errors import BadInput, BadPlan
from redteam.evaluation.gauntlet import Gauntlet, is_gauntlet
from redteam.evaluation.plan import Plan, Product
from redteam.plugins.contracts import AttackSpec, Needs, Role, ScenarioSpec
from redteam.plugins.reference import Reference, chain_text, parse_chain
from redteam.plugins.registry import ATTACKS, DEFENSES, MERGERS, SCENARIOS, LoadedPlugin, Registry
from redteam.plugins.source import first_line
from redteam.threat import THREAT_MODELS, ThreatModel, threat_model


@dataclass(frozen=True)
class Pipeline:
    """One plugin, or several applied one after the other, as written `a+b`.

    Attributes:
        text: What reports call it: canonical, but without the settings that were left at their defaults.
        links: The plugins, in order.
        victim: Of a scenario that was asked for with several victims in turn, the one that it is here.
        family: What it was asked for as, then; empty for all else.
    """

    text: str
    links: tuple[LoadedPlugin[Any], ...]
    victim: str = ""
    family: str = ""

    @classmethod
    def load(cls, registry: Registry[Any], text: str, folder: Path) -> Pipeline:
        """Imports every link of the text."""
        references = parse_chain(text)
        shown = tuple(Reference(reference.plugin, reference.settings) for reference in references)
        return cls(chain_text(shown), tuple(registry.load(reference, folder=folder) for reference in references))

    @classmethod
    def scenarios(cls, text: str, folder: Path) -> Iterator[Pipeline]:
        """The scenario of a text, or where it has several victims in turn one for each of them.

        Raises:
            BadInput: If the text chains several.
            BadPlan: If it sets a seed.
        """
        asked = _single(cls.load(SCENARIOS, text, folder), "scenario")
        (link,) = asked.links
        if "seed" in link.reference.settings:
            raise BadPlan(f"{asked.text!r} sets a seed, which would not be used; list seeds in the plan's 'seeds'.")
        turns = in_turn(link)
        if not turns:
            yield asked
        for victim, one in turns.items():
            yield replace(cls.load(SCENARIOS, str(one), folder), victim=victim, family=asked.text)

    @property
    def identity(self) -> list[Any]:
        """What a cell's name says about it: names, settings and sources."""
        return [[link.spec.name, dict(link.settings), link.source_digest] for link in self.links]

    @property
    def state(self) -> str:
        """What it would read from the disk, as a scenario's spec tells it."""
        link = self.links[0]
        return link.spec.state(**link.settings) if getattr(link.spec, "state", None) else ""

    @property
    def how(self) -> list[tuple[str, dict[str, Any], str]]:
        """Names, settings and digests under which a worker loads the same, wherever it runs."""
        return [
            (
                _found_from_anywhere(link),
                dict(link.settings),
                link.source_digest,
            )
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

    @property
    def whole(self) -> bool:
        """Of a merger, whether it keeps every expert whole, so that no verdict counts it."""
        return bool(self.links[0].spec.whole)

    @property
    def summary(self) -> str:
        """One line about it."""
        return "; then ".join(first_line(Path(inspect.getfile(link.function))) for link in self.links)


@dataclass(frozen=True)
class Ensemble:
    """A gauntlet, of attacks or of mergers, with its members imported.

    Attributes:
        text: Its name.
        members: In the order in which they run.
    """

    text: str
    members: tuple[Pipeline, ...]

    @classmethod
    def load(cls, name: str) -> Ensemble:
        """The gauntlet that a package ships under this name, and everybody in it."""
        gauntlet = Gauntlet.read(name)
        registry = ATTACKS if gauntlet.kind == "attacks" else MERGERS
        return cls(name, tuple(Pipeline.load(registry, text, Path()) for text in gauntlet.members))


@dataclass(frozen=True)
class Part:
    """One product of a plan, with its plugins imported.

    Attributes:
        attacks: Those that run on everything.
        gauntlets: Ensembles of attacks, whose members run on what is still locked.
        mergers: Those that everything is merged with.
        turns: Ensembles of mergers; from their second member on they merge what is still locked.
        device: Where it is computed.
    """

    seeds: tuple[int, ...]
    keys: int
    scenarios: tuple[Pipeline, ...]
    defenses: tuple[Pipeline, ...]
    attacks: tuple[Pipeline, ...]
    gauntlets: tuple[Ensemble, ...]
    mergers: tuple[Pipeline, ...]
    turns: tuple[Ensemble, ...]
    threats: tuple[ThreatModel, ...]
    device: str

    @classmethod
    def of(cls, product: Product, folder: Path, device: str) -> Part:
        """Loads everything the product names, and the attacks that belong to every evaluation."""
        gauntlets = [text for text in product.attacks if is_gauntlet(text, "attacks")]
        turns = [text for text in product.mergers if is_gauntlet(text, "mergers")]
        attacks = [Pipeline.load(ATTACKS, text, folder) for text in product.attacks if text not in gauntlets]
        named = {link.name for chain in attacks if len(chain.links) == 1 for link in chain.links}
        for name in ATTACKS.names:
            spec: AttackSpec = ATTACKS.load(name).spec
            if (spec.always or spec.role != "recovery") and name not in named:
                attacks.append(Pipeline.load(ATTACKS, name, folder))
        attacks.sort(key=lambda chain: get_args(Role).index(chain.role))
        scenarios: dict[tuple[str, str], Pipeline] = {}
        for one in (one for text in product.scenarios for one in Pipeline.scenarios(text, folder)):
            asked = (one.text, repr(one.identity))
            if one.family or asked not in scenarios:  # who names a victim beside all of them asks for it once
                scenarios[asked] = one
        mergers = tuple(
            _single(Pipeline.load(MERGERS, text, folder), "merger") for text in product.mergers if text not in turns
        )
        in_turn = tuple(Ensemble.load(name) for name in turns)
        _require_counted(mergers, in_turn)
        defenses = tuple(Pipeline.load(DEFENSES, text, folder) for text in product.defenses)
        _require_of_weights("protect", defenses)
        _require_of_weights("attack", attacks)
        threats = tuple(threat_model(name) for name in product.threats)
        _require_alike(defenses, threats)
        return cls(
            product.seeds,
            product.keys,
            tuple(scenarios.values()),
            defenses,
            tuple(attacks),
            tuple(Ensemble.load(name) for name in gauntlets),
            mergers,
            in_turn,
            threats,
            device,
        )

    @property
    def everyone(self) -> tuple[Pipeline, ...]:
        """All attacks, the members of gauntlets among them, each once."""
        members = (chain for gauntlet in self.gauntlets for chain in gauntlet.members)
        return tuple({repr(chain.identity): chain for chain in (*self.attacks, *members)}.values())

    @property
    def merging(self) -> tuple[Pipeline, ...]:
        """All mergers, the members of gauntlets among them, each once."""
        members = (merger for gauntlet in self.turns for merger in gauntlet.members)
        return tuple({repr(merger.identity): merger for merger in (*self.mergers, *members)}.values())

    def all_of(self, kind: str) -> tuple[Pipeline, ...]:
        """Each once, of `"scenarios"`, `"defenses"`, `"attacks"` or `"mergers"`; members of gauntlets among them."""
        found: tuple[Pipeline, ...] = getattr(self, {"attacks": "everyone", "mergers": "merging"}.get(kind, kind))
        return found


@dataclass(frozen=True)
class Resolved:
    """A plan with its plugins imported.

    Raises:
        RedteamError: On loading, if a name or a setting is wrong; nothing has run by then.
    """

    plan: Plan
    parts: tuple[Part, ...]

    @classmethod
    def of(cls, plan: Plan, folder: Path) -> Resolved:
        """Loads every product of the plan."""
        parts = tuple(Part.of(product, folder, plan.device) for product in plan.products)
        for kind in ("scenarios", "defenses", "attacks", "mergers"):
            _distinct(kind, [part.all_of(kind) for part in parts])
        return cls(plan, parts)

    @property
    def places(self) -> dict[tuple[str, int], Pipeline]:
        """(scenario, seed) → the scenario, each once."""
        return {(chain.text, seed): chain for part in self.parts for chain in part.scenarios for seed in part.seeds}

    @property
    def families(self) -> dict[str, dict[str, str]]:
        """What scenarios with several victims in turn were asked for as → victim → the scenario where it is that."""
        found: dict[str, dict[str, str]] = {}
        for chain in (chain for part in self.parts for chain in part.scenarios if chain.family):
            found.setdefault(chain.family, {})[chain.victim] = chain.text
        return found

    @property
    def threats(self) -> dict[str, ThreatModel]:
        """Name → threat model."""
        return {threat.name: threat for part in self.parts for threat in part.threats}

    def pipelines(self, kind: str) -> dict[str, Pipeline]:
        """Text → chain, for `"scenarios"`, `"defenses"`, `"attacks"` or `"mergers"`."""
        return {chain.text: chain for part in self.parts for chain in part.all_of(kind)}

    @property
    def files(self) -> dict[str, Path]:
        """Files that the plan names, as it names them → where they are."""
        kinds = ("scenarios", "defenses", "attacks", "mergers")
        chains = [chain for part in self.parts for kind in kinds for chain in part.all_of(kind)]
        links = (link for chain in chains for link in chain.links if link.reference.file)
        return {link.reference.file: Path(link.origin) for link in links}

    @property
    def gauntlets(self) -> dict[str, Ensemble]:
        """Name → gauntlet of attacks."""
        return {gauntlet.text: gauntlet for part in self.parts for gauntlet in part.gauntlets}

    @property
    def merger_gauntlets(self) -> dict[str, Ensemble]:
        """Name → gauntlet of mergers."""
        return {gauntlet.text: gauntlet for part in self.parts for gauntlet in part.turns}


def _found_from_anywhere(link: LoadedPlugin[Any]) -> str:
    if not link.reference.file:
        return link.name
    return link.origin if link.reference.is_data else f"{link.origin}@{link.spec.name}"


def in_turn(scenario: LoadedPlugin[ScenarioSpec]) -> dict[str, Reference]:
    """Victim → the scenario where it is that, of one that was asked for with several in turn; else nothing."""
    asked, named = scenario.spec.victims, scenario.reference
    victims = () if asked is None else asked(**scenario.settings)
    return {victim: Reference(named.name, {**named.settings, "victim": victim}) for victim in victims}


def _single(chain: Pipeline, kind: str) -> Pipeline:
    if len(chain.links) > 1:
        raise BadInput(f"{chain.text!r} chains several plugins; a {kind} stands alone.")
    return chain


def _require_of_weights(command: str, chains: Sequence[Pipeline]) -> None:
    """Refuses what rewrites the factors of an adapter, since runs merge adapters into whole models."""
    for chain in chains:
        if chain.any(lambda spec: spec.factors):
            raise BadPlan(
                f"{chain.text} rewrites the factors of an adapter, and a run merges adapters into their base first, "
                f"after which none are left; use redteam {command} {chain.text} ADAPTER --base BASE --out DIR, and "
                "redteam merge on what it writes."
            )


def _require_alike(defenses: Sequence[Pipeline], threats: Sequence[ThreatModel]) -> None:
    """Refuses to compare what runs alone with what does not: threat models speak of the one or of the other."""
    for chain in defenses:
        seals = [link.spec.sealed for link in chain.links]
        if seals != sorted(seals):
            raise BadPlan(
                f"In {chain.text} something follows on a defense that seals, which it would have to be put on before "
                "the weights are sealed; name what seals last."
            )
        for threat in threats:
            if any(seals) and not threat.sealed:
                fitting = " or ".join(name for name in THREAT_MODELS if threat_model(name).sealed)
                raise BadPlan(
                    f"{chain.text} seals the weights, so that what it releases does not run alone, and the threat "
                    f"model {threat.name} is of models that do; judge it under {fitting} (--threat {fitting}, in a "
                    "plan that has both in a table [[also]] of its own)."
                )
            if threat.sealed and not any(seals) and chain.any(lambda spec: spec.protects):
                raise BadPlan(
                    f"{chain.text} releases a model that runs alone, and the threat model {threat.name} is of models "
                    "that do not; judge it under another, in a plan that has both in a table [[also]] of its own."
                )


def _require_counted(mergers: Sequence[Pipeline], turns: Sequence[Ensemble]) -> None:
    """Refuses mergers of which no verdict counts any, and gauntlets with one that is not counted."""
    for gauntlet in turns:
        for member in (member for member in gauntlet.members if member.whole):
            raise BadPlan(
                f"The gauntlet {gauntlet.text} holds {member.text}, which keeps every expert whole and decides "
                "nothing; name it beside the gauntlet."
            )
    if not turns and all(merger.whole for merger in mergers):
        uncounted = " and ".join(merger.text for merger in mergers)
        raise BadPlan(
            f"No verdict counts {uncounted}, which keeps every expert whole; name a merger beside it that makes one "
            "checkpoint of them."
        )


def _distinct(kind: str, parts: Sequence[Sequence[Pipeline]]) -> None:
    """Refuses chains that results would take for one another: the same text in one product, or for different things."""
    identities: dict[str, Any] = {}
    for chains in parts:
        texts = [chain.text for chain in chains]
        for chain in chains:
            if texts.count(chain.text) > 1 or identities.setdefault(chain.text, chain.identity) != chain.identity:
                raise BadPlan(
                    f"Two different {kind} are called {chain.text!r}; give the one in the file a name of its own."
                )
