"""Settings that a search turns: which values it tries, and how optuna proposes them."""

from __future__ import annotations

import math
import typing
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import combinations
from typing import TYPE_CHECKING, Any, Literal, Protocol

from redteam.anatomy import KINDS
from redteam.plugins.reference import toml_text
from redteam.plugins.settings import Range, Setting

if TYPE_CHECKING:
    from optuna import Trial

_NEAR = 100.0  # how many times greater or less than a default
_FEW = 4  # of what a list may hold, so that all its parts can be tried


class Dial(Protocol):
    """A setting that is tuned."""

    @property
    def default(self) -> Any:
        """Its default value."""

    def suggest(self, trial: Trial, name: str) -> Any:
        """A value, by optuna."""

    def defaults(self, name: str) -> dict[str, Any]:
        """What optuna is told so that it suggests the default."""

    def plain(self) -> dict[str, Any]:
        """As plain values."""


@dataclass(frozen=True)
class Choice:
    """One of some values.

    Attributes:
        values: All of them.
        default: The one that it has otherwise.
    """

    values: tuple[Any, ...]
    default: Any

    def suggest(self, trial: Trial, name: str) -> Any:
        drawn = trial.suggest_categorical(name, [_plain(value) for value in self.values])
        return next(value for value in self.values if _plain(value) == drawn)

    def defaults(self, name: str) -> dict[str, Any]:
        return {name: _plain(self.default)}

    def plain(self) -> dict[str, Any]:
        return {"choices": [_plain(value) for value in self.values], "default": _plain(self.default)}


@dataclass(frozen=True)
class Number:
    """A number in a range.

    Attributes:
        bounds: Where it is looked for.
        default: Its default value, within the bounds.
        whole: Whether it is a whole number.
    """

    bounds: Range
    default: Any
    whole: bool = False

    def suggest(self, trial: Trial, name: str) -> Any:
        low, high, log = self.bounds.low, self.bounds.high, self.bounds.log
        if self.whole:
            return trial.suggest_int(name, int(low), int(high), log=log)
        drawn = float(f"{trial.suggest_float(name, low, high, log=log):.3g}")
        return min(max(drawn, low), high)  # more digits would only make chains hard to read

    def defaults(self, name: str) -> dict[str, Any]:
        return {name: self.default}

    def plain(self) -> dict[str, Any]:
        return {"low": self.bounds.low, "high": self.bounds.high, "log": self.bounds.log, "default": self.default}

    def nearer(self) -> Number:
        """Looked for within some hundred times its default, by the logarithm, where its range goes farther."""
        low, high, default = self.bounds.low, self.bounds.high, float(self.default)
        wide = default > 0 and (high > _NEAR * default or (self.bounds.log and low < default / _NEAR))
        if not wide:
            return self
        bounds = Range(max(low, default / _NEAR), min(high, default * _NEAR), log=True)
        if self.whole:
            bounds = Range(max(1, math.ceil(bounds.low)), math.floor(bounds.high), log=True)
        return Number(bounds, self.default, self.whole)


@dataclass(frozen=True)
class Ends:
    """Two numbers between which something is drawn, the lower one first.

    Attributes:
        ends: Where each of them is looked for.
    """

    ends: tuple[Number, Number]

    @property
    def default(self) -> Any:
        return tuple(end.default for end in self.ends)

    def suggest(self, trial: Trial, name: str) -> Any:
        return tuple(sorted(end.suggest(trial, f"{name}/{turn}") for turn, end in enumerate(self.ends)))

    def defaults(self, name: str) -> dict[str, Any]:
        return {
            key: value for turn, end in enumerate(self.ends) for key, value in end.defaults(f"{name}/{turn}").items()
        }

    def plain(self) -> dict[str, Any]:
        return {"ends": [end.plain() for end in self.ends], "default": list(self.default)}


def dial_of(setting: Setting, default: Any) -> Dial | None:
    """The dial of a setting; `None` where nothing says in which range to look, or the default is outside."""
    kind, bounds = setting.annotation, setting.range
    if kind is bool:
        return Choice((False, True), default)
    if typing.get_origin(kind) is Literal:
        return Choice(typing.get_args(kind), default)
    plain = kind in (int, float) and type(default) in (int, float)
    return Number(bounds, default, kind is int) if plain and bounds is not None and default in bounds else None


def near_default(setting: Setting, default: Any, *, exact: bool = False) -> Dial | None:
    """Likewise, for numbers near their defaults, pairs of ends and lists of a few words as well.

    What is legal for training goes far beyond what is worth waiting for, and beyond what leaves a model its skill.

    Args:
        setting: The setting.
        default: Its default.
        exact: Whether the plugin keeps the function: where it does so, its defaults know, and nothing is added to a
            list.
    """
    found = dial_of(setting, default)
    if isinstance(found, Number):
        return found.nearer()
    return found or _ends(setting, default) or _parts(setting, default, exact)


def _ends(setting: Setting, default: Any) -> Dial | None:
    bounds = setting.range
    if setting.annotation != tuple[float, float] or bounds is None or not bounds.rising or len(default or ()) != 2:
        return None
    if not all(end in bounds for end in default):
        return None
    first, second = (Number(bounds, end).nearer() for end in default)
    return Ends((first, second))


def _parts(setting: Setting, default: Any, exact: bool) -> Dial | None:
    """Every part of a short list, none left out; of kinds of sites those that are commonly locked."""
    arguments = typing.get_args(setting.annotation)
    if typing.get_origin(setting.annotation) is not tuple or arguments[1:] != (...,) or not default:
        return None
    words: Sequence[Any] = typing.get_args(arguments[0]) if typing.get_origin(arguments[0]) is Literal else ()
    if exact:
        words = [word for word in words if word in default]
    elif set(KINDS) <= set(words):
        words = KINDS
    if not words or len(words) > _FEW or not set(default) <= set(words):
        return None
    parts = (part for size in range(1, len(words) + 1) for part in combinations(words, size))
    return Choice(tuple(tuple(default) if set(part) == set(default) else part for part in parts), tuple(default))


def _plain(value: Any) -> Any:
    """As optuna and JSON keep it."""
    return toml_text(value) if isinstance(value, tuple) else value
