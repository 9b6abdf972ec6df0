"""Descriptions as data: what a file of the catalogue holds, and what `redteam describe` writes."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping
from dataclasses import MISSING, Field, fields, replace
from pathlib import Path
from typing import Any

from redteam.anatomy.architecture import KINDS_OF_SITES, Architecture, ArchitectureLike, Stream
from redteam.anatomy.convolutional import Convolutional
from redteam.anatomy.legality import GROUPS
from redteam.anatomy.network import Network
from redteam.errors import BadInput

_PLAIN = {"legal", "defaults"}
_ADAPTED = ("query", "key", "value", "up", "gate")
_PLACEHOLDERS = {"layer", "previous", "expert", "prefix", "stage", "place", "use"}


def read_description(file: Path) -> tuple[str, Architecture | ArchitectureLike]:
    """A model type and its description.

    Raises:
        BadInput: If the file cannot be read, or holds none.
    """
    try:
        data = json.loads(file.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, json.JSONDecodeError) as error:
        raise BadInput(
            f"The description {file} cannot be read ({error}); expected what redteam describe writes."
        ) from error
    if not isinstance(data, dict) or not isinstance(data.get("model_type"), str) or not data["model_type"]:
        raise BadInput(f"{file} names no model_type; expected what redteam describe writes.")
    return data["model_type"], from_data(data, str(file))


def as_data(architecture: Architecture | ArchitectureLike) -> dict[str, Any]:
    """A description as numbers, strings, lists and tables; what is as it is by default is left out.

    Raises:
        BadInput: If it is a class of a package's own.
    """
    if isinstance(architecture, Convolutional):
        return {"convolutional": _dumped(architecture)}
    if isinstance(architecture, Architecture):
        streams = ((architecture.stream, (architecture.part,)),) if architecture.stream else ()
        architecture = Network((architecture,), streams)
    if not isinstance(architecture, Network):
        raise BadInput(f"A {type(architecture).__name__} has no form as data.")
    return {
        "stacks": [_dumped(stack) for stack in architecture.stacks],
        "streams": [{"parts": list(parts), **_dumped(stream)} for stream, parts in architecture.streams],
    }


def from_data(data: Mapping[str, Any], where: str) -> Architecture | ArchitectureLike:
    """The description that `as_data` gave.

    Args:
        data: Parsed; keys other than those of a description are passed over.
        where: Names the file in messages.

    Raises:
        BadInput: If a key is not known, a value has another type than it should, or there is no stack.
    """
    if "convolutional" in data:
        convolutional: Convolutional = _made(Convolutional, data["convolutional"], where)
        return convolutional
    stacks, streams = data.get("stacks"), data.get("streams", [])
    if not isinstance(stacks, list) or not stacks or not isinstance(streams, list):
        raise BadInput(f"{where} describes no stack of blocks; expected the file that redteam describe writes.")
    made: tuple[Architecture, ...] = tuple(_made(Architecture, stack, where) for stack in stacks)
    through = []
    for stream in streams:
        if not isinstance(stream, Mapping) or not isinstance(stream.get("parts"), list):
            raise BadInput(f"A stream in {where} has no parts; expected a list of those it runs through.")
        outside = {key: value for key, value in stream.items() if key != "parts"}
        through.append((_made(Stream, outside, where), tuple(map(str, stream["parts"]))))
    if len(made) == 1 and all(parts == (made[0].part,) for _, parts in through):
        return replace(made[0], stream=next((stream for stream, _ in through), None))
    return Network(made, tuple(through))


def _dumped(described: Any) -> dict[str, Any]:
    found = {}
    for one in fields(described):
        value = getattr(described, one.name)
        if one.name != "stream" and value != _default(one):
            found[one.name] = _listed(value)
    return found


def _default(one: Field[Any]) -> Any:
    if one.default is not MISSING:
        return one.default
    return one.default_factory() if one.default_factory is not MISSING else MISSING


def _listed(value: Any) -> Any:
    if isinstance(value, tuple):
        return [_listed(each) for each in value]
    return dict(value) if isinstance(value, Mapping) else value


def _made(cls: type[Any], data: Any, where: str) -> Any:
    known = {one.name: one for one in fields(cls) if one.name != "stream"}
    if not isinstance(data, Mapping) or not set(data) <= set(known):
        odd = sorted(set(data) - set(known)) if isinstance(data, Mapping) else [data]
        raise BadInput(f"{where} has {odd[0]!r} in a description; expected keys among {', '.join(known)}.")
    values = {key: value if key in _PLAIN else _tupled(value) for key, value in data.items()}
    for key, value in values.items():
        if not _fits(value, known[key]):
            raise BadInput(f"{where} has {key} = {data[key]!r}; expected a value of the type {known[key].type}.")
    _require_known(values, where)
    try:
        return cls(**values)
    except TypeError as error:
        raise BadInput(f"{where} lacks a part of a description ({error}).") from error


def _fits(value: Any, one: Field[Any]) -> bool:
    """Whether a value is of the type of the default; a name, or several where the field says so, where that is None."""
    default = _default(one)
    if default is None:
        several = "tuple" in str(one.type) and isinstance(value, tuple)
        return value is None or several or isinstance(value, str)
    if isinstance(default, float) and not isinstance(value, bool):
        return isinstance(value, int | float)
    wanted = str if default is MISSING else dict if isinstance(default, Mapping) else type(default)
    return isinstance(value, wanted)


def _require_known(values: Mapping[str, Any], where: str) -> None:
    """Refuses kinds and groups that there are not, and placeholders that nothing is put in for."""
    legal = values.get("legal", {})
    for kind, group in legal.items():
        if kind not in KINDS_OF_SITES or group not in GROUPS:
            raise BadInput(f"{where} has {kind} = {group!r} among what is legal; expected a kind of sites and a group.")
    maps = {values[role] for role in _ADAPTED if role in values}
    for one in values.get("adapters", ()):
        if not isinstance(one, tuple) or len(one) != 3 or one[0] not in maps:
            raise BadInput(
                f"{where} has adapters {one!r}; expected a map among {', '.join(_ADAPTED)} and two of its own."
            )
    for text in _texts([value for key, value in values.items() if key not in _PLAIN]):
        odd = set(re.findall(r"{(\w*)}", text)) - _PLACEHOLDERS
        if odd:
            raise BadInput(f"{where} has {text!r}; expected {{layer}} and {{expert}} alone in braces.")


def _texts(value: Any) -> Iterator[str]:
    if isinstance(value, str):
        yield value
    elif isinstance(value, list | tuple):
        for each in value:
            yield from _texts(each)


def _tupled(value: Any) -> Any:
    return tuple(_tupled(each) for each in value) if isinstance(value, list) else value
