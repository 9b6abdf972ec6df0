"""Results as pandas tables: one row per cell, control, verdict or figure, nested values flattened to named columns."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from redteam.errors import UnknownName
from redteam.evaluation.metrics import DTYPES
from redteam.evaluation.price import UNITS
from redteam.evaluation.results import Cell, Control, Figure, Model, Oracle, Price, Results, Verdict
from redteam.evaluation.statistics import Interval

if TYPE_CHECKING:
    import pandas as pd

_BARE = ("scores", "cost")
"""Fields whose entries are columns of their own, without the field's name in front."""

_NAMES: dict[str, Any] = {"scenario": "", "defense": "", "threat": "", "attack": ""}
_INTERVAL = Interval(0.0, 0.0, 0.0, 1, "")
_COST: dict[str, Any] = dict.fromkeys(UNITS, 0.0)
_SCORES = ("theft", "counted", "advantage", "protection", "recovery", "residual", "change")

_FULL: Mapping[str, Model] = {
    "cells": Cell(
        **_NAMES,
        seed=0,
        victim="",
        key=0,
        role="",
        merger="",
        status="ok",
        scores={**dict.fromkeys(_SCORES, 0.0), "fidelity": dict.fromkeys(DTYPES, 0.0), "seen": 0.0},
        cost={**_COST, "merge_seconds": 0.0},
    ),
    "controls": Control(**_NAMES, control="gain", passed=True, value=0.0, limit=0.0, explanation=""),
    "verdicts": Verdict(
        **_NAMES,
        verdict="",
        reason="",
        flags=(),
        theft=_INTERVAL,
        counted=_INTERVAL,
        advantage=_INTERVAL,
        protection=_INTERVAL,
        fidelity=dict.fromkeys(DTYPES, _INTERVAL),
        oracle=Oracle(attack="", merger="", theft=_INTERVAL),
        cost=_COST,
        price=Price(censored=False, ratio=_COST, paid=_COST, anew=_COST),
    ),
    "figures": Figure(
        **_NAMES,
        role="",
        merger="",
        status="ok",
        theft=_INTERVAL,
        counted=_INTERVAL,
        advantage=_INTERVAL,
        residual=0.0,
        key_spread=0.0,
        seen=0.0,
        **_COST,
    ),
}
"""A row of each table with nothing missing: it says which columns there are, whatever a run found."""

TABLES = tuple(_FULL)
"""What `Results.to_frame` knows."""


def flat(row: Model) -> dict[str, Any]:
    """A row's values by column, those that exist.

    An interval `x` becomes `x` (its mean), `x.low` and `x.high`, and that of theft also `seeds` and `over`; an entry
    `k` of a mapping `x` becomes `x.k`, of `scores` and `cost` just `k`; several texts become one, with commas.
    """
    columns: dict[str, Any] = {}
    for name in type(row).model_fields:
        columns |= _flat("" if name in _BARE else name, getattr(row, name))
    return columns


def frame(results: Results, table: str) -> pd.DataFrame:
    """See `Results.to_frame`."""
    import pandas as pd

    if table not in _FULL:
        raise UnknownName.among("table of results", table, TABLES)
    rows = [flat(row) for row in getattr(results, table)]
    kinds = {name: _dtype(name, value) for name, value in flat(_FULL[table]).items()}
    extra = [name for name in dict.fromkeys(name for row in rows for name in row) if name not in kinds]
    # Entries that only some scenarios have, such as the tasks' scores, are numbers.
    kinds |= {name: "float64" if _numbers(name, rows) else "object" for name in extra}
    return pd.DataFrame({name: pd.Series([row.get(name) for row in rows], dtype=kind) for name, kind in kinds.items()})


def _flat(name: str, value: Any) -> Iterator[tuple[str, Any]]:
    if isinstance(value, Interval):
        yield from ((name, value.mean), (f"{name}.low", value.low), (f"{name}.high", value.high))
        if name == "theft":
            yield from (("seeds", value.seeds), ("over", value.over))
    elif isinstance(value, Model):
        for field in type(value).model_fields:
            yield from _flat(f"{name}.{field}", getattr(value, field))
    elif isinstance(value, Mapping):
        for key, entry in value.items():
            yield from _flat(f"{name}.{key}" if name else key, entry)
    elif isinstance(value, tuple):
        yield name, ", ".join(map(str, value))
    elif value is not None:
        yield name, value


def _dtype(name: str, value: Any) -> str:
    """Of a column, by what a full row has there; what can be missing is nullable."""
    if isinstance(value, bool):
        return "boolean" if "." in name else "bool"
    if isinstance(value, int):
        return "Int64" if name == "seeds" else "int64"
    return "float64" if isinstance(value, float) else "str"


def _numbers(name: str, rows: Sequence[Mapping[str, Any]]) -> bool:
    return all(isinstance(row.get(name), (int, float, type(None))) for row in rows)
