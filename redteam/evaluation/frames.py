"""Results as pandas tables: one row per cell, control, verdict, figure or subject, nested values as columns.

Which columns there are, and of which dtype, follows from the fields of the models and not from what a run found.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from types import NoneType
from typing import TYPE_CHECKING, Any, Literal, get_args, get_origin

from redteam.errors import UnknownName
from redteam.evaluation.results import OverVictims, Results, Span, Verdict
from redteam.evaluation.rows import Beside, ByMerger, Cell, Control, Figure, Model, Subject, WholeMerge
from redteam.evaluation.statistics import Interval

if TYPE_CHECKING:
    import pandas as pd

_MODELS: Mapping[str, type[Model]] = {
    "cells": Cell,
    "controls": Control,
    "verdicts": Verdict,
    "over_victims": OverVictims,
    "beside": Beside,
    "figures": Figure,
    "subjects": Subject,
    "whole": WholeMerge,
    "by_merger": ByMerger,
}
TABLES = tuple(_MODELS)
"""What `Results.to_frame` knows."""

DTYPES = ("float32", "bfloat16", "float16")
_UNITS = ("seconds", "labels", "steps")
_KEYS: Mapping[str, tuple[str, ...]] = {
    "scores": (
        *("theft", "counted", "advantage", "protection", "recovery", "residual", "change"),
        *("fidelity", "seen"),
    ),
    "fidelity": DTYPES,
    "cost": (*_UNITS, "megabytes", "merge_seconds"),
    "ratio": _UNITS,
    "paid": _UNITS,
    "anew": _UNITS,
}
"""Mapping → its keys that every table has, whether or not a run has them; others stand behind, as they come."""

_BARE = ("scores", "cost")
"""Mappings whose entries are columns without the mapping's name in front."""


def frame(results: Results, table: str) -> pd.DataFrame:
    """See `Results.to_frame`."""
    import pandas as pd

    if table not in _MODELS:
        raise UnknownName.among("table of results", table, TABLES)
    rows = [flat(row) for row in getattr(results, table)]
    kinds = columns(_MODELS[table])
    extra = [name for name in dict.fromkeys(name for row in rows for name in row) if name not in kinds]
    kinds |= {name: _kind([row.get(name) for row in rows]) for name in extra}
    return pd.DataFrame({name: pd.Series([row.get(name) for row in rows], dtype=kind) for name, kind in kinds.items()})


def _kind(values: Sequence[Any]) -> str:
    """Of entries that only some scenarios have: the tasks' scores are numbers, texts name scenarios."""
    if all(isinstance(value, (int, float, NoneType)) for value in values):
        return "float64"
    return "str" if all(isinstance(value, (str, NoneType)) for value in values) else "object"


def columns(model: type[Model]) -> dict[str, str]:
    """Column → dtype of a table of such rows. What can be missing has a nullable dtype."""
    return dict(_columns("", model))


def flat(row: Model) -> dict[str, Any]:
    """A row's values by column, those that exist.

    An interval or span `x` becomes `x` (its mean), `x.low` and `x.high`, and that of theft also `seeds` and `over`; an
    entry `k` of a mapping `x` becomes `x.k`, of `scores` and `cost` just `k`; several texts become one, with commas.
    Rows within a row, such as figures by seed, are left out.
    """
    return {column: value for column, value in _values("", row) if value is not None}


def _columns(name: str, kind: Any, optional: bool = False) -> Iterator[tuple[str, str]]:
    origin, inner = get_origin(kind), get_args(kind)
    if NoneType in inner:
        (only,) = (one for one in inner if one is not NoneType)
        yield from _columns(name, only, True)
    elif kind in (Interval, Span):
        yield from ((name, "float64"), (f"{name}.low", "float64"), (f"{name}.high", "float64"))
        if name == "theft":
            yield from (("seeds", "Int64"), ("over", "str"))
    elif isinstance(kind, type) and issubclass(kind, Model):
        for field, inside in _fields(kind):
            yield from _columns(f"{name}.{field}" if name else field, inside, optional)
    elif origin is dict or (kind is Any and name in _KEYS):
        prefix = "" if name in _BARE else f"{name}."
        for key in _KEYS.get(name.rpartition(".")[2], ()):
            yield from _columns(f"{prefix}{key}", inner[1] if inner else float, optional)
    elif origin in (tuple, Literal) or kind is str:
        yield name, "str"
    elif kind is bool:
        yield name, "boolean" if optional else "bool"
    elif kind is int:
        yield name, "Int64" if optional else "int64"
    else:
        yield name, "float64"


def _values(name: str, value: Any) -> Iterator[tuple[str, Any]]:
    if isinstance(value, (Interval, Span)):
        yield from ((name, value.mean), (f"{name}.low", value.low), (f"{name}.high", value.high))
        if name == "theft" and isinstance(value, Interval):
            yield from (("seeds", value.seeds), ("over", value.over))
    elif isinstance(value, Model):
        for field, _ in _fields(type(value)):
            yield from _values(f"{name}.{field}" if name else field, getattr(value, field))
    elif isinstance(value, Mapping):
        for key, entry in value.items():
            yield from _values(key if name in _BARE else f"{name}.{key}", entry)
    else:
        yield name, ", ".join(map(_text, value)) if isinstance(value, tuple) else value


def _text(value: Any) -> str:
    return " ".join(map(str, value)) if isinstance(value, tuple) else str(value)


def _fields(model: type[Model]) -> Iterator[tuple[str, Any]]:
    """Names and types of the fields that are no rows themselves."""
    for name, info in model.model_fields.items():
        inner = get_args(info.annotation)
        if not (get_origin(info.annotation) is tuple and isinstance(inner[0], type) and issubclass(inner[0], Model)):
            yield name, info.annotation
