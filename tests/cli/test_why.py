"""Why a verdict is what it is: everything on one screen, from the rows of a run alone."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any, get_args

import pytest

from redteam.cli.why import RULES, why
from redteam.errors import UnknownName
from redteam.evaluation.results import Cell, Control, Figure, Ground, Results, SeedFigure, Verdict
from redteam.evaluation.statistics import Interval
from redteam.evaluation.thresholds import THRESHOLDS
from redteam.evaluation.verdict import Word

PLACE = {"scenario": "digits", "defense": "mergelock", "threat": "weights-only"}
PAIRING = {**PLACE, "seed": 0, "victim": "digits", "key": 1, "merger": "linear", "status": "ok"}
SEEDS = 9
LOCK = PLACE["defense"]


def seed(number: int, attack: str, theft: float) -> SeedFigure:
    given = {"low": theft - 0.02, "high": theft + 0.01, "sure": theft - 0.03}
    return SeedFigure(seed=number, key=1, attack=attack, merger="linear", theft=theft, counted=theft, **given)


def figure(attack: str, theft: float | None, choice: str = "attack") -> Figure:
    counted = None if theft is None else Interval(theft, theft - 0.02, theft + 0.01, SEEDS, "seeds")
    rows = () if theft is None else tuple(seed(number, attack, theft) for number in range(SEEDS))
    role = "naive" if choice == "naive" else "recovery"
    status = "ok" if theft is not None else "error"
    return Figure(
        **PLACE,
        choice=choice,  # type: ignore[arg-type]
        attack=attack,
        role=role,
        merger="linear",
        status=status,  # type: ignore[arg-type]
        theft=counted,
        counted=counted,
        per_seed=rows,
    )


def control(number: int, passed: bool) -> Control:
    return Control(
        control="floor", attack="fit", passed=passed, limit=0.1, explanation=f"it steals 0.{number}", **PLACE
    )


@pytest.fixture
def results() -> Callable[..., Results]:
    def make(word: str = "BROKEN", **more: Any) -> Results:
        verdict = Verdict(
            **PLACE,
            verdict=word,
            reason="fit fails; fit fails; and so on",
            flags=("SOMETIMES",),
            attack="fit",
            merger="linear",
            rests_on=tuple(range(1, 13)),
        )
        ground = Ground(
            scenario="digits",
            seed=0,
            merger="linear",
            digest="0",
            settings={"coefficient": 0.4},
            experts={"letters": 0.91, "digits": 0.95},
            base={"letters": 0.7, "digits": 0.2},
            without={"letters": 0.9, "digits": 0.4},
            reference={"letters": 0.85, "digits": 0.8},
            gain=0.4,
        )
        cells = (
            Cell(**PAIRING, attack="none", role="naive", tasks={"letters": 0.01, "digits": 0.02}),
            Cell(**PAIRING, attack="none×2", role="naive", tasks={"letters": 0.3, "digits": 0.3}),
            Cell(**PAIRING, attack="fit", role="recovery", tasks={"letters": 0.75, "digits": 0.78}),
        )
        attacks = [figure(f"attack-{number}", number / 20) for number in range(12)]
        given: dict[str, Any] = {
            "schema": Results.model_fields["schema_"].default,
            "plan": {"name": "quick"},
            "command": "redteam run",
            "environment": {},
            "thresholds": {"stolen": THRESHOLDS.stolen, "gain": THRESHOLDS.gain, "trivial": THRESHOLDS.trivial},
            "grounds": (ground,),
            "cells": cells,
            "figures": (
                figure("none", 0.0, "naive"),
                figure("fit", 0.85, "worst"),
                figure("fit", 0.85),
                figure("lost", None),
                *attacks,
            ),
            "controls": tuple(control(number, number != 5) for number in range(14)),
            "verdicts": (verdict,),
            "about": {"defense": {"mergelock": "MergeLock: every head in a secret basis."}},
        }
        return Results(**{**given, **more})

    return make


@pytest.mark.parametrize("word", get_args(Word))
def test_it_fits_one_screen_whatever_the_verdict(results: Callable[..., Results], word: str) -> None:
    lines = why(results(word), LOCK).splitlines()
    assert len(lines) <= 40
    assert max(map(len, lines)) <= 80
    assert lines[0] == f"{word} (SOMETIMES): MergeLock on digits under weights-only"
    assert set(RULES) == set(get_args(Word)), "every word has its rule"


def test_it_leads_from_the_rule_to_the_merges(results: Callable[..., Results]) -> None:
    text = why(results(), LOCK)
    assert "Because fit fails (2 times); and so on." in text
    assert "at least 0.5" in text
    assert "  worst case         0.85 [0.83, 0.86]  fit with linear" in text
    assert "    seed 0, key 1      0.85 [0.83, 0.86]  fit with linear" in text
    assert f"and {SEEDS - 3} seeds with less" in text
    assert "and 10 attacks that stole less, 1 without a result" in text
    assert "Merges with linear, coefficient 0.4, seed 0, key 1" in text
    rows = {line.split("  ")[1]: line.split()[-2:] for line in text.splitlines() if line.startswith("  ")}
    assert rows["locked"] == ["0.020", "0.010"], "not the one at another length; the victim's task first"
    assert rows["attacked"] == ["0.780", "0.750"]
    assert rows["reference"] == ["0.800", "0.850"]
    # 0.95 of the gain, less what letters lost beyond 0.02: 0.10.
    assert "theft = (0.780 − 0.400) ÷ (0.800 − 0.400) − 0.10 that other tasks lost = 0.85" in text


def test_the_controls_are_those_that_it_rests_on(results: Callable[..., Results]) -> None:
    text = why(results(), LOCK)
    assert "Rests on 12 controls, 1 of which failed:" in text
    floors = [line for line in text.splitlines() if " floor " in line]
    assert floors[0] == "  FAILED floor    it steals 0.5", "failed ones first"
    assert "it steals 0.0" not in text, "the first and the last stand behind another verdict"
    assert "and 6 more that passed" in text


def test_without_any_figure_there_is_a_reason_all_the_same(results: Callable[..., Results]) -> None:
    text = why(results("INVALID", figures=(), cells=(), grounds=(), thresholds={}), LOCK)
    assert text.startswith("INVALID")
    assert "Because fit fails" in text


def test_an_unknown_defense_is_named(results: Callable[..., Results]) -> None:
    with pytest.raises(UnknownName, match="no defense in this run called 'mergelok'; did you mean 'mergelock'"):
        why(results(), "mergelok")


def test_show_reads_a_folder_or_its_file(
    results: Callable[..., Results], tmp_path: Path, shell: Callable[..., Any]
) -> None:
    results().write(tmp_path / "results.json")
    for name in (tmp_path, tmp_path / "results.json"):
        told = shell("show", str(name), "--why", "mergelock")
        assert (told.code, told.out) == (0, why(results(), LOCK) + "\n")
    (row,) = json.loads(shell("show", str(tmp_path), "--why", "mergelock", "--json").out)
    assert row == results().verdicts[0].model_dump(mode="json")
