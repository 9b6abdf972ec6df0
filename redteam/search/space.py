"""What a search may try: plugins in a row, in any order, each with settings from where its author says to look."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, Protocol

from redteam.errors import BadInput, UnknownName
from redteam.plugins.contracts import AttackSpec, DefenseSpec, Needs
from redteam.plugins.reference import Reference, chain_text
from redteam.plugins.registry import ATTACKS, DEFENSES, LoadedPlugin, Registry
from redteam.plugins.settings import settings_of
from redteam.search.dials import Dial, dial_of, near_default
from redteam.threat import ThreatModel

if TYPE_CHECKING:
    from optuna import Trial

_LENGTH = "length"


class Tells(Protocol):
    """Says which dial a setting is, given its default; `None` where nothing says in which range to look."""

    def __call__(self, setting: Any, default: Any) -> Dial | None: ...


@dataclass(frozen=True)
class Option:
    """A plugin that a chain may hold.

    Attributes:
        plugin: The plugin, with what the user fixed and otherwise its defaults.
        dials: What of it is tuned.
    """

    plugin: LoadedPlugin[Any]
    dials: Mapping[str, Dial]

    @classmethod
    def of(cls, plugin: LoadedPlugin[Any], tells: Tells = dial_of) -> Option:
        """A plugin whose settings are tuned, but for those that were written down."""
        free = {
            name: dial
            for name, setting in settings_of(plugin.function).items()
            if name not in plugin.reference.settings and (dial := tells(setting, plugin.settings[name])) is not None
        }
        return cls(plugin, free)

    @property
    def name(self) -> str:
        """As chains and optuna call it."""
        return str(plain) if (plain := self.plugin.reference).settings else plain.name


@dataclass(frozen=True)
class Space:
    """All chains of up to so many plugins.

    Attributes:
        options: The plugins, in the order in which each of them is tried alone.
        steps: The most of them in one chain.
        kind: `"attacks"` or `"defenses"`.
    """

    options: tuple[Option, ...]
    steps: int
    kind: Literal["attacks", "defenses"] = "attacks"

    @classmethod
    def of(
        cls,
        threat: ThreatModel,
        *,
        keyed: bool,
        defenses: Sequence[str],
        steps: int,
        only: Sequence[str] = (),
        without: Sequence[str] = (),
        folder: Path | None = None,
    ) -> Space:
        """Every installed recovery attack that the threat model grants what it needs.

        Trivial attackers, ceilings and the naive merge are no attacks that could be strong, and are never in it.

        Args:
            threat: What the attacker has.
            keyed: Whether the defense draws on a key, which attacks that run its code guess.
            defenses: Names of the defenses; attacks that target one of them come first.
            steps: The most attacks in one pipeline.
            only: References to the attacks to choose from, by default all that are installed; settings that are given
                with one are not tuned.
            without: Names of attacks to leave out.
            folder: Where relative paths of plugin files start.

        Raises:
            RedteamError: If a name is unknown, an attack that was asked for cannot be in it, or nothing is left.
        """
        left = []
        for plugin in _named(ATTACKS, only, without, folder):
            reason = _refused(plugin.spec, threat, keyed)
            if reason and only:
                raise BadInput(f"The attack {plugin.name} cannot be searched with: {reason}; leave it out.")
            if not reason:
                left.append(Option.of(plugin))
        if not left:
            raise BadInput("No attack is left to search with; take out fewer, or grant more with --threat.")
        left.sort(key=lambda one: (not set(defenses) & set(one.plugin.spec.targets), one.name))
        return cls(tuple(left), steps)

    @classmethod
    def of_defenses(
        cls,
        threat: ThreatModel,
        *,
        steps: int,
        only: Sequence[str] = (),
        without: Sequence[str] = (),
        folder: Path | None = None,
    ) -> Space:
        """Every installed defense of whole models that a threat model is about, those that are meant to protect first.

        Their settings are looked for near their defaults, lists of sites and pairs of bounds among them. Where a
        defense is legal shows when it is put on.

        Args:
            threat: Whether what is released runs alone; what seals the weights is of no use where it does.
            steps: The most defenses in one chain.
            only: As of `of`.
            without: Names of defenses to leave out.
            folder: Where relative paths of plugin files start.

        Raises:
            RedteamError: As `of`.
        """
        left = []
        for plugin in _named(DEFENSES, only, without, folder):
            reason = _no_protection(plugin.spec, threat)
            if reason and only:
                raise BadInput(f"The defense {plugin.name} cannot be searched with: {reason}; leave it out.")
            if not reason:
                left.append(Option.of(plugin, partial(near_default, exact=plugin.spec.exact)))
        if not left:
            raise BadInput("No defense is left to search with; take out fewer with --without.")
        left.sort(key=lambda one: (not one.plugin.spec.protects, one.name))
        return cls(tuple(left), steps, "defenses")

    def draw(self, trial: Trial) -> str:
        """A chain, by optuna: settings of a plugin exist only where the plugin was drawn."""
        names = [option.name for option in self.options]
        by_name = {option.name: option for option in self.options}
        length = trial.suggest_int(_LENGTH, 1, self.steps)
        links = []
        for place in range(1, length + 1):
            option = by_name[trial.suggest_categorical(f"{place}", names)]
            values = {key: dial.suggest(trial, f"{place}/{option.name}/{key}") for key, dial in option.dials.items()}
            links.append(_link(option, values))
        return chain_text(tuple(links))

    def singles(self) -> Iterator[dict[str, Any]]:
        """Every plugin alone with its defaults, as what optuna is told to try."""
        for option in self.options:
            dials = (dial.defaults(f"1/{option.name}/{key}") for key, dial in option.dials.items())
            yield {_LENGTH: 1, "1": option.name, **{key: value for one in dials for key, value in one.items()}}

    def plain(self) -> dict[str, Any]:
        """As plain values, with the digests of the plugins' sources: two that are equal are the same space."""
        plugins = {
            option.name: {
                "source": option.plugin.source_digest,
                "settings": {key: dial.plain() for key, dial in option.dials.items()},
            }
            for option in self.options
        }
        return {"steps": self.steps, self.kind: plugins}


def _link(option: Option, values: Mapping[str, Any]) -> Reference:
    """Written as short as it can be: what stands at its default is left out."""
    given = option.plugin.reference
    turned = {key: value for key, value in values.items() if value != option.dials[key].default}
    return Reference(given.name, {**given.settings, **turned})


def _named(
    registry: Registry[Any], only: Sequence[str], without: Sequence[str], folder: Path | None
) -> Iterable[LoadedPlugin[Any]]:
    """Those that were asked for, or all that are installed, without those that were taken out.

    Raises:
        RedteamError: If a name is unknown.
    """
    known = set(registry.names) | {Reference.parse(text).plugin for text in only}
    for name in without:
        if name not in known:
            raise UnknownName.among(registry.kind, name, known)
    loaded = [registry.load(text, folder=folder) for text in only or registry.names]
    return [plugin for plugin in loaded if plugin.spec.name not in without]


def _no_protection(spec: DefenseSpec, threat: ThreatModel) -> str:
    if spec.factors:
        return "it rewrites the factors of an adapter, and runs merge adapters into whole models"
    if not (spec.protects or spec.keyed or spec.prepares):
        return "it is there for comparison alone"
    if spec.sealed and not threat.sealed:
        return f"what it releases does not run alone, and the threat model {threat.name} is of models that do"
    return ""


def _refused(spec: AttackSpec, threat: ThreatModel, keyed: bool) -> str:
    if spec.role != "recovery":
        return f"its role is {spec.role!r}, and only recovery attacks are searched"
    if spec.factors:
        return "it rewrites the factors of an adapter, and runs merge adapters into whole models"
    if not threat.allows(spec.needs):
        return f"it needs more than the threat model {threat.name} grants"
    if spec.needs & Needs.CODE and not keyed:
        return "it runs the defense's code under guessed keys, and this defense has none"
    return ""
