"""A plan with its plugins imported: whatever is wrong with a name or a setting shows here, before anything runs."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from redteam.errors import BadInput, BadPlan
from redteam.evaluation.plan import Plan
from redteam.plugins.contracts import AttackSpec, Needs
from redteam.plugins.reference import Reference, chain_text, parse_chain
from redteam.plugins.registry import ATTACKS, DEFENSES, MERGERS, SCENARIOS, LoadedPlugin, Registry
from redteam.threat import ThreatModel, threat_model


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
