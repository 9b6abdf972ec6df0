"""Tables of results: the same columns and dtypes whatever was found."""

from __future__ import annotations

from typing import Any, get_args

import pytest

from redteam.errors import UnknownName
from redteam.evaluation import results as r
from redteam.evaluation.frames import DTYPES, TABLES, columns, flat, frame
from redteam.evaluation.statistics import Interval

PLACE: dict[str, Any] = {"scenario": "digits", "defense": "lock", "threat": "weights-only"}
THEFT = Interval(0.5, 0.25, 0.75, 5, "seeds")
SPAN = r.Span(mean=2.0, low=1.0, high=3.0)
CELL = r.Cell(
    **PLACE,
    seed=3,
    victim="digits",
    key=1,
    attack="fit",
    role="recovery",
    merger="ties",
    status="ok",
    scores={"theft": 0.5, "fidelity": {"float16": 0.9}, "seen": 0.1},
    tasks={"letters": 0.8},
    cost={"seconds": 0.2, "labels": None},
)
VERDICT = r.Verdict(
    **PLACE,
    verdict="BROKEN",
    reason="it falls",
    flags=("SOMETIMES", "COSTLY"),
    theft=THEFT,
    fidelity={"float32": THEFT},
    by={"fit": 4},
    seen=r.Choice(attack="fit", merger="ties", theft=THEFT),
    price=r.Price(censored=False, attack="fit", merger="ties", ratio={"seconds": SPAN, "labels": None}),
    rests_on=(0, 4),
)
FIGURE = r.Figure(
    **PLACE,
    attack="fit",
    role="recovery",
    merger="ties",
    status="ok",
    theft=THEFT,
    per_seed=(
        r.SeedFigure(seed=0, key=0, attack="fit", merger="ties", theft=0.5, counted=0.5, low=0.4, high=0.6, sure=0.3),
    ),
)
CONTROL = r.Control(control="floor", scenario="digits", passed=True, limit=0.1, explanation="nothing", p=0.9)
SUBJECT = r.Subject(
    **PLACE, protects=True, published=True, exact=True, keyed=True, missing=("a", "b"), tried=(("floor", "fit"),)
)
OVER = r.OverVictims(
    **PLACE, verdict="BROKEN", reason="on one of them", victims={"letters": "digits:victim=letters"}, theft=THEFT,
    fallen=("letters",), by={"letters": 4},
)  # fmt: skip
WHOLE = r.WholeMerge(**PLACE, merger="masks", stored=2.1, inference=1.0, gain=THEFT, theft=THEFT, attacked=THEFT)
BESIDE = r.Beside(what="locked", scenario="digits", defense="lock", figures={"score": THEFT})
BY_MERGER = r.ByMerger(**PLACE, merger="ties", gain=THEFT, telling=True, naive=THEFT, worst=THEFT, attack="fit")
ROWS: dict[str, r.Model] = {
    "cells": CELL,
    "controls": CONTROL,
    "verdicts": VERDICT,
    "over_victims": OVER,
    "figures": FIGURE,
    "subjects": SUBJECT,
    "whole": WHOLE,
    "beside": BESIDE,
    "by_merger": BY_MERGER,
}


def holding(**tables: Any) -> r.Results:
    empty: dict[str, Any] = dict.fromkeys(("cells", "controls", "verdicts", "figures", "subjects", "grounds"), ())
    return r.Results(**{"plan": {}, "command": "", "environment": {}, "thresholds": {}, **empty, **tables})


def test_every_table_has_a_row_here() -> None:
    assert set(ROWS) == set(TABLES)


@pytest.mark.parametrize("table", TABLES)
def test_columns_and_dtypes_do_not_depend_on_what_was_found(table: str) -> None:
    empty, full = frame(holding(), table), frame(holding(**{table: (ROWS[table],)}), table)
    known = columns(type(ROWS[table]))
    assert list(empty.columns) == list(full.columns)[: len(known)] == list(known)
    assert dict(full.dtypes[: len(known)]) == dict(empty.dtypes)
    unlisted = {"tasks.letters", "by.fit", "by.letters", "victims.letters"}
    unlisted |= {"figures.score", "figures.score.low", "figures.score.high"}
    assert set(full.columns[len(known) :]) <= unlisted
    assert {str(kind) for kind in full.dtypes} <= {"str", "float64", "int64", "Int64", "bool", "boolean"}


def test_values_stand_in_the_columns_of_their_names() -> None:
    row = frame(holding(verdicts=(VERDICT,)), "verdicts").iloc[0]
    assert (row["flags"], row["rests_on"], row["by.fit"]) == ("SOMETIMES, COSTLY", "0, 4", 4)
    assert tuple(row[["theft", "theft.low", "theft.high", "seeds", "over"]]) == (0.5, 0.25, 0.75, 5, "seeds")
    assert (row["seen.attack"], row["seen.theft.high"], row["fidelity.float32.low"]) == ("fit", 0.75, 0.25)
    price = [row[f"price.ratio.{name}"] for name in ("seconds", "seconds.low", "seconds.high")]
    assert price == [2.0, 1.0, 3.0]
    assert row.isna()[["price.ratio.labels", "advantage", "fidelity.float16"]].all()
    cell = frame(holding(cells=(CELL,)), "cells").iloc[0]
    assert (cell["theft"], cell["fidelity.float16"], cell["tasks.letters"], cell["seconds"]) == (0.5, 0.9, 0.8, 0.2)
    assert cell.isna()[["residual", "labels", "merge_seconds"]].all()


def test_what_is_missing_is_missing_and_the_rest_stays() -> None:
    failed = CELL.model_copy(update={"status": "error", "scores": {}, "cost": {}, "tasks": {}})
    table = frame(holding(cells=(failed, CELL)), "cells")
    assert table["theft"].isna().tolist() == [True, False]
    assert table["seed"].dtype == "int64"


def test_rows_within_a_row_are_left_out() -> None:
    assert not [name for name in flat(FIGURE) if "per_seed" in name]
    assert not [name for name in columns(r.Figure) if "per_seed" in name]
    assert not [name for name in columns(r.Subject) if "adversaries" in name]


def test_every_dtype_that_is_measured_has_its_column() -> None:
    from redteam.evaluation.metrics import DTYPES as MEASURED

    assert tuple(MEASURED) == DTYPES


def test_a_status_is_a_text_of_those_that_there_are() -> None:
    assert columns(r.Cell)["status"] == "str"
    assert CELL.status in get_args(r.Status)


def test_another_table_is_refused_with_the_one_that_is_meant() -> None:
    with pytest.raises(UnknownName, match="verdicts"):
        holding().to_frame("verdict")


def test_pairs_of_texts_become_one_text() -> None:
    assert flat(SUBJECT)["tried"] == "floor fit"
    assert flat(SUBJECT)["missing"] == "a, b"
