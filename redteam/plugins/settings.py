"""Settings as typed signatures: a plugin's keyword-only parameters, with types, defaults and ranges.

`bind` turns what a user wrote into the full set of values, or says in one sentence what is wrong with it. pydantic is
imported only there, so that listing plugins stays quick.
"""

from __future__ import annotations

import inspect
import json
import math
import types
import typing
from collections.abc import Callable, Collection, Iterator, Mapping
from dataclasses import dataclass
from itertools import pairwise
from typing import Annotated, Any, Literal

from redteam.errors import BadSetting, PluginFault, UnknownName, hint
from redteam.plugins.contracts import spec_of

REQUIRED = inspect.Parameter.empty
"""The default of a setting that has none."""


@dataclass(frozen=True)
class Range:
    """Where a number is legal and where a search looks for it, both ends included.

    Written into a type, as in `Annotated[float, Range(0.05, 1.5)]`. In a tuple it holds for every number.

    Attributes:
        low: The least value.
        high: The greatest value.
        log: Whether a search should step in the logarithm.
        rising: Whether the numbers of a list must rise, as the two ends of an interval do.

    Raises:
        ValueError: If `low` exceeds `high`, or a logarithmic range reaches 0.
    """

    low: float
    high: float
    log: bool = False
    rising: bool = False

    def __post_init__(self) -> None:
        if not self.low <= self.high or (self.log and self.low <= 0):
            raise ValueError(f"no range: low {self.low}, high {self.high}, log {self.log}")

    def __contains__(self, value: float) -> bool:
        return self.low <= value <= self.high

    def __str__(self) -> str:
        return f"[{self.low:g}, {self.high:g}]"


@dataclass(frozen=True)
class Setting:
    """One keyword-only parameter of a plugin.

    Attributes:
        name: The parameter's name.
        annotation: Its type, without the range.
        default: Its default, `REQUIRED` if it has none.
        range: Its legal range, `None` if any value of the type will do.
    """

    name: str
    annotation: Any
    default: Any
    range: Range | None

    @property
    def required(self) -> bool:
        """Whether the user has to give a value."""
        return self.default is REQUIRED

    @property
    def type_text(self) -> str:
        """The type in words, as errors and `redteam show` print it."""
        return describe(self.annotation)


def settings_of(function: Callable[..., Any]) -> dict[str, Setting]:
    """The settings that a plugin's signature declares, in order.

    Only the annotations of keyword-only parameters are resolved, so that views may be imported under `TYPE_CHECKING`.

    Raises:
        PluginFault: If a setting has no type, or one that cannot be resolved.
    """
    parameters = [p for p in inspect.signature(function).parameters.values() if p.kind is p.KEYWORD_ONLY]
    owner = _owner(function)
    for parameter in parameters:
        if parameter.annotation is parameter.empty:
            raise PluginFault(
                f"The setting {parameter.name!r} of {owner} has no type; annotate it, as in x: float = 1.0."
            )
    shim = types.SimpleNamespace(__annotations__={p.name: p.annotation for p in parameters})
    scope = getattr(inspect.unwrap(function), "__globals__", {})
    try:
        hints = typing.get_type_hints(shim, globalns=scope, include_extras=True)
    except Exception as error:
        raise PluginFault(
            f"The types of the settings of {owner} cannot be resolved ({error}); import them at the module's top."
        ) from error
    return {p.name: _setting(p.name, hints[p.name], p.default) for p in parameters}


def bind(function: Callable[..., Any], given: Mapping[str, Any], *, name: str = "") -> dict[str, Any]:
    """Validates what a user gave and fills in the defaults.

    Values are held to the types strictly (no text for numbers, no truth values for whole numbers), but for lists, which
    TOML has in place of tuples. What comes back is complete and in the signature's order, so that it can be hashed.

    Args:
        function: The plugin.
        given: Setting → value, as read from TOML or given from Python.
        name: What errors call the plugin; by default the name in its spec.

    Raises:
        UnknownName: If the plugin has no setting of that name.
        BadSetting: If a value has the wrong type or is out of range, or a required one is missing.
        PluginFault: If the plugin's signature cannot be understood, or its own defaults are not legal.
    """
    owner = name or _owner(function)
    settings = settings_of(function)
    for key in given:
        if key not in settings:
            raise unknown_setting(owner, key, settings)
    bound: dict[str, Any] = {}
    for key, setting in settings.items():
        if key in given:
            bound[key] = _validated(owner, setting, given[key])
        elif setting.required:
            raise BadSetting(f"{owner} needs a value for {key} ({setting.type_text}); write {owner}:{key}=….")
        else:
            try:
                bound[key] = _validated(owner, setting, setting.default)
            except BadSetting as error:
                raise PluginFault(f"The default is not legal: {error}") from error
    return bound


def describe(annotation: Any) -> str:
    """A type in words: `tuple[float, float]` becomes "list of number, number"."""
    plain = {float: "number", int: "whole number", bool: "true or false", str: "text", type(None): "nothing"}
    if isinstance(annotation, type) and annotation in plain:
        return plain[annotation]
    origin, arguments = typing.get_origin(annotation), typing.get_args(annotation)
    if origin is Annotated:
        return describe(arguments[0])
    if origin is Literal:
        return "one of " + ", ".join(repr(a) for a in arguments)
    if origin in (typing.Union, types.UnionType):
        return " or ".join(describe(a) for a in arguments)
    if origin in (tuple, list, set, frozenset) and arguments:
        if origin is tuple and arguments[-1] is not Ellipsis:
            return f"list of {len(arguments)}: " + ", ".join(describe(a) for a in arguments)
        return f"list of any length, each {describe(arguments[0])}"
    return getattr(annotation, "__name__", str(annotation))


def _owner(function: Callable[..., Any]) -> str:
    spec = spec_of(function)
    return spec.name if spec else getattr(function, "__name__", str(function))


def _setting(name: str, hint: Any, default: Any) -> Setting:
    if typing.get_origin(hint) is Annotated:
        annotation, *extras = typing.get_args(hint)
        ranges = [extra for extra in extras if isinstance(extra, Range)]
        return Setting(name, annotation, default, ranges[0] if ranges else None)
    return Setting(name, hint, default, None)


def unknown_setting(owner: str, key: str, settings: Collection[str]) -> UnknownName:
    """The sentence on a setting that a plugin does not have, with those that it has."""
    return UnknownName(f"{owner} has no setting {key!r}; {hint(key, settings, 'it has')}")


def _validated(owner: str, setting: Setting, value: Any) -> Any:
    from pydantic import ConfigDict, TypeAdapter, ValidationError

    # Strict JSON is the mode in which a list may stand for a tuple and nothing else is bent into shape.
    try:
        text = json.dumps(value, default=_sorted_set)
        adapter = TypeAdapter(setting.annotation, config=ConfigDict(allow_inf_nan=False))
        result = adapter.validate_json(text, strict=True)
    except (TypeError, ValueError, ValidationError):
        expected = _article(setting.type_text)
        raise BadSetting(f"{setting.name} of {owner} must be {expected}, got {shown(value)}.") from None
    if setting.range is not None:
        for number in _numbers(result):
            if not math.isfinite(number) or number not in setting.range:
                where = "must lie in" if number is result else "must have its numbers in"
                raise BadSetting(f"{setting.name} of {owner} {where} {setting.range}, got {number:g}.")
        numbers = list(_numbers(result))
        if setting.range.rising and any(low >= high for low, high in pairwise(numbers)):
            raise BadSetting(f"{setting.name} of {owner} must rise from number to number, got {shown(result)}.")
    return result


def _sorted_set(value: Any) -> list[Any]:
    if isinstance(value, (set, frozenset)):
        return sorted(value)
    raise TypeError(type(value).__name__)


def _numbers(value: Any) -> Iterator[float]:
    if isinstance(value, (int, float)) and not isinstance(value, bool):
        yield value
    elif isinstance(value, (tuple, list, set, frozenset)):
        for item in value:
            yield from _numbers(item)


def _article(text: str) -> str:
    return text if text.startswith(("one of", "true", "text", "nothing")) else f"a {text}"


def shown(value: Any) -> str:
    """A value as a sentence quotes it, cut short."""
    text = repr(list(value) if isinstance(value, tuple) else value)
    return text if len(text) <= 60 else f"{text[:57]}…"
