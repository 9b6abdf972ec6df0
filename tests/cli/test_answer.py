"""The answer in words: one sentence a verdict, what it was tried on, a line a defense, and nothing twice."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from redteam.answer import BOUND, named, once, sentence
from redteam.cli.answer import answer
from redteam.evaluation.results import Cell, Control, Flag, Results, Verdict
from redteam.evaluation.statistics import Interval

SUMMARIES = {"mergelock": "MergeLock: every head in a secret basis.", "none": "No defense: the victim as it is."}
SCENARIO = "A vision transformer of 0.2 M parameters on 24×24 images: digits (the victim) and letters."


def even(value: float) -> Interval:
    return Interval(value, max(0.0, value - 0.01), min(1.0, value + 0.01), 1, "test items")


def verdict(word: str = "BROKEN", defense: str = "mergelock", theft: float | None = 0.99, **more: Any) -> Verdict:
    given: dict[str, Any] = {
        "scenario": "digits",
        "defense": defense,
        "threat": "weights-only",
        "verdict": word,
        "reason": "because; because; and so",
        "flags": (),
        "attack": "gauge-fit",
        "merger": "linear",
        "theft": None if theft is None else even(theft),
        "protection": even(1.0),
        "fidelity": {"float32": even(1.0), "float16": even(0.97)},
        "cost": {"seconds": 0.21},
    }
    return Verdict(**{**given, **more})


NONE = verdict("INEFFECTIVE", "none", 1.0, protection=even(0.0), attack="none", gated=False)


@pytest.fixture
def results() -> Callable[..., Results]:
    def make(*verdicts: Verdict, **more: Any) -> Results:
        given: dict[str, Any] = {
            "schema": Results.model_fields["schema_"].default,
            "plan": {"name": "quick"},
            "command": "redteam run",
            "environment": {},
            "thresholds": {},
            "grounds": (),
            "cells": (),
            "controls": (),
            "verdicts": verdicts,
            "about": {"defense": SUMMARIES, "scenario": {"digits": SCENARIO}},
        }
        return Results(**{**given, **more})

    return make


SAID = {
    "BROKEN": (
        "MergeLock does not protect: from the weights and the public base alone, 0.99 of what the victim adds comes "
        "back, in 0.2 s on one core."
    ),
    "INEFFECTIVE": (
        "MergeLock does not protect: even a plain merge, without any attack, gets 0.00 of what the victim adds."
    ),
    "HOLDS-SO-FAR": (
        "MergeLock held against everything that was tried: from the weights and the public base alone, the strongest "
        "attack (gauge-fit) got 0.99 of what the victim adds, at most 1.00."
    ),
    "INCONCLUSIVE": "It is open whether MergeLock protects: because (2 times); and so.",
    "INVALID": "Nothing can be said about MergeLock: because (2 times); and so.",
    "UNSCORABLE": "Nothing can be said about MergeLock: because (2 times); and so.",
}


@pytest.mark.parametrize("word", SAID)
def test_every_word_has_its_sentence(word: str) -> None:
    assert sentence(verdict(word), SUMMARIES) == SAID[word]


@pytest.mark.parametrize("word", SAID)
def test_a_verdict_without_figures_has_one_too(word: str) -> None:
    bare = verdict(word, theft=None, protection=None, cost={})
    assert sentence(bare).startswith(("Nothing can be said about mergelock", "It is open whether mergelock protects"))


def test_the_price_is_that_of_the_attack_that_is_meant() -> None:
    assert "on one core" in sentence(verdict())
    assert "on one core" not in sentence(verdict(cost={}))
    assert "under 0.1 s" in sentence(verdict(cost={"seconds": 0.02}))


@pytest.mark.parametrize(
    ("defense", "name"),
    [
        ("mergelock", "MergeLock"),
        ("mergelock:scale=[0.5,2]", "mergelock:scale=[0.5,2]"),
        ("arf+mergelock", "arf+mergelock"),
        ("own.py@mine", "own.py@mine"),
    ],
)
def test_names_in_words_where_they_are_unambiguous(defense: str, name: str) -> None:
    assert named(defense, {defense: SUMMARIES["mergelock"]}) == name
    assert named(defense, {}) == defense


def test_parts_of_a_sentence_stand_once() -> None:
    assert once("a; b; a; a") == "a (3 times); b"
    assert once("a") == "a"


def test_the_answer_comes_first_and_the_baseline_last(results: Callable[..., Results]) -> None:
    text = answer(results(NONE, verdict()))
    blocks = text.split("\n\n")
    assert " ".join(blocks[0].split()) == (f"{SAID['BROKEN']} Tried on digits, a{SCENARIO[1:-1]}; 0 seeds.")
    lines = blocks[1].splitlines()
    assert lines[1].split() == ["verdict", "defense", "no", "attack", "worst", "case", "fidelity", "by"]
    assert lines[2].split() == ["BROKEN", "mergelock", "0.00", "0.99", "[0.98,", "1.00]", "0.970", "gauge-fit"]
    assert lines[3].split()[:3] == ["INEFFECTIVE", "none", "1.00"]
    assert blocks[2] == BOUND


def test_it_fits_its_width(results: Callable[..., Results]) -> None:
    long = verdict(defense="mergelock:scale=[0.001,1000]+null-shift", attack="shape-restore+anchor-alignment")
    for width in (60, 80, 120):
        text = answer(results(NONE, verdict(), long), verbose=True, width=width)
        assert max(map(len, text.splitlines())) <= width


def test_names_are_broken_where_their_parts_are_joined(results: Callable[..., Results]) -> None:
    chain = "mlp-regression+shape-restore+gauge-fit"
    text = answer(results(NONE, verdict(defense="gaussian-noise:share=1.4", attack=chain)))
    cells = [line[12:28].split() + line[66:].split() for line in text.split("\n\n")[1].splitlines()[2:]]
    parts = [part for cell in cells for part in cell]
    assert {"gaussian-", "noise:share=", "1.4", "regression+", "restore+", "gauge-fit"} <= set(parts)


def test_many_verdicts_are_counted(results: Callable[..., Results]) -> None:
    threats = ["weights-only", "no-base", "leaked-key", "data-rich"]
    found = [verdict(threat=threat) for threat in threats] + [verdict("HOLDS-SO-FAR", "strong", 0.1), NONE]
    text = " ".join(answer(results(*found)).split())
    assert text.startswith("4 of 5: does not protect. MergeLock (4 times).")
    assert "1 of 5: held against everything that was tried. strong." in text
    for threat in threats:
        assert f"digits under {threat} " in text


def test_failures_stand_once_with_their_count(results: Callable[..., Results]) -> None:
    cells = tuple(
        Cell(
            scenario="digits",
            seed=seed,
            victim="digits",
            defense="mergelock",
            key=0,
            threat="weights-only",
            attack="slow",
            role="recovery",
            merger="linear",
            status="timeout",
            reason="it took longer than 300 s",
        )
        for seed in range(5)
    )
    text = answer(results(verdict(), cells=cells))
    assert "timeout: slow on mergelock and 4 more: it took longer than 300 s" in text
    assert text.count("longer than 300 s") == 1


def test_jargon_only_when_asked_for(results: Callable[..., Results]) -> None:
    failed = tuple(
        Control(control="floor", scenario="digits", attack="fit", passed=False, limit=0.1, explanation="it steals 0.2")
        for _ in range(3)
    )
    flags = {"ONE-SEED": Flag(raised_if="r", means="one training run stands behind it", do="d")}
    found = results(verdict(flags=("ONE-SEED",)), controls=failed, flags=flags)
    plain, verbose = answer(found), answer(found, verbose=True)
    assert verbose.startswith(plain)
    rest = verbose.removeprefix(plain)
    for text in ("ONE-SEED (mergelock): one training run", "control failed: floor fit: it steals 0.2 (3 times)"):
        assert text in rest
        assert text not in plain
    assert "0 cells, 3 controls (3 failed)." in rest
