"""What a search may try: pipelines of attacks, in any order, each with settings from where its author says to look."""

from __future__ import annotations

import typing
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from redteam.errors import BadInput, UnknownName
from redteam.plugins.contracts import AttackSpec, Needs
from redteam.plugins.reference import Reference, chain_text
from redteam.plugins.registry import ATTACKS, LoadedPlugin
from redteam.plugins.settings import Setting, settings_of
from redteam.threat import ThreatModel

if TYPE_CHECKING:
    from optuna import Trial

_LENGTH = "length"


@dataclass(frozen=True)
class Parameter:
    """A setting that is tuned.

    Attributes:
        setting: What it is and where it is looked for.
        default: Its default value.
    """

    setting: Setting
    default: Any

    @property
    def choices(self) -> tuple[Any, ...]:
        """The values among which to choose, of a setting without a range."""
        if self.setting.annotation is bool:
            return (False, True)
        return typing.get_args(self.setting.annotation)

    @classmethod
    def of(cls, setting: Setting, default: Any) -> Parameter | None:
        """The parameter of a setting; `None` where nothing says in which range to look, or the default is outside."""
        kind, bounds = setting.annotation, setting.range
        if kind is bool or typing.get_origin(kind) is Literal:
            return cls(setting, default)
        plain = kind in (int, float) and type(default) in (int, float)
        return cls(setting, default) if plain and bounds is not None and default in bounds else None

    def suggest(self, trial: Trial, name: str) -> Any:
        """A value, by optuna."""
        bounds = self.setting.range
        if bounds is None or self.choices:
            return trial.suggest_categorical(name, self.choices)
        if self.setting.annotation is int:
            return trial.suggest_int(name, int(bounds.low), int(bounds.high), log=bounds.log)
        drawn = float(f"{trial.suggest_float(name, bounds.low, bounds.high, log=bounds.log):.3g}")
        return min(max(drawn, bounds.low), bounds.high)  # more digits would only make pipelines hard to read

    def plain(self) -> dict[str, Any]:
        """As plain values."""
        bounds = self.setting.range
        if bounds is None or self.choices:
            return {"choices": list(self.choices), "default": self.default}
        return {"low": bounds.low, "high": bounds.high, "log": bounds.log, "default": self.default}


@dataclass(frozen=True)
class Option:
    """An attack that a pipeline may hold.

    Attributes:
        plugin: The attack, with what the user fixed and otherwise its defaults.
        parameters: What of it is tuned.
    """

    plugin: LoadedPlugin[AttackSpec]
    parameters: Mapping[str, Parameter]

    @classmethod
    def of(cls, plugin: LoadedPlugin[AttackSpec]) -> Option:
        """An attack whose settings are tuned, but for those that were written down."""
        free = {
            name: parameter
            for name, setting in settings_of(plugin.function).items()
            if name not in plugin.reference.settings
            and (parameter := Parameter.of(setting, plugin.settings[name])) is not None
        }
        return cls(plugin, free)

    @property
    def name(self) -> str:
        """As pipelines and optuna call it."""
        return str(plain) if (plain := self.plugin.reference).settings else plain.name


@dataclass(frozen=True)
class Space:
    """All pipelines of up to so many attacks.

    Attributes:
        options: The attacks, those that were made for the defense first, otherwise by name.
        steps: The most attacks in one pipeline.
    """

    options: tuple[Option, ...]
    steps: int

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
        known = set(ATTACKS.names) | {Reference.parse(text).plugin for text in only}
        for name in without:
            if name not in known:
                raise UnknownName.among("attack", name, known)
        loaded = [ATTACKS.load(text, folder=folder) for text in only or ATTACKS.names]
        left = []
        for plugin in loaded:
            reason = _refused(plugin.spec, threat, keyed)
            if plugin.spec.name in without or (reason and not only):
                continue
            if reason:
                raise BadInput(f"The attack {plugin.name} cannot be searched with: {reason}; leave it out.")
            left.append(Option.of(plugin))
        if not left:
            raise BadInput("No attack is left to search with; take out fewer, or grant more with --threat.")
        left.sort(key=lambda one: (not set(defenses) & set(one.plugin.spec.targets), one.name))
        return cls(tuple(left), steps)

    def draw(self, trial: Trial) -> str:
        """A pipeline, by optuna: settings of an attack exist only where the attack was drawn."""
        names = [option.name for option in self.options]
        by_name = {option.name: option for option in self.options}
        length = trial.suggest_int(_LENGTH, 1, self.steps)
        links = []
        for place in range(1, length + 1):
            option = by_name[trial.suggest_categorical(f"{place}", names)]
            values = {
                key: parameter.suggest(trial, f"{place}/{option.name}/{key}")
                for key, parameter in option.parameters.items()
            }
            links.append(_link(option, values))
        return chain_text(tuple(links))

    def singles(self) -> Iterator[dict[str, Any]]:
        """Every attack alone with its defaults, as what optuna is told to try."""
        for option in self.options:
            parameters = {f"1/{option.name}/{key}": parameter.default for key, parameter in option.parameters.items()}
            yield {_LENGTH: 1, "1": option.name, **parameters}

    def plain(self) -> dict[str, Any]:
        """As plain values, with the digests of the attacks' sources: two that are equal are the same space."""
        attacks = {
            option.name: {
                "source": option.plugin.source_digest,
                "settings": {key: parameter.plain() for key, parameter in option.parameters.items()},
            }
            for option in self.options
        }
        return {"steps": self.steps, "attacks": attacks}


def _link(option: Option, values: Mapping[str, Any]) -> Reference:
    """Written as short as it can be: what stands at its default is left out."""
    given = option.plugin.reference
    turned = {key: value for key, value in values.items() if value != option.parameters[key].default}
    return Reference(given.name, {**given.settings, **turned})


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
