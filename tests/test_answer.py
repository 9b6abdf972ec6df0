"""The answer in words: locks that fall sometimes, attacks with data, the baseline, and what nobody knows."""

from __future__ import annotations

from typing import Any

import pytest

from redteam.answer import duration, means, named, plural, sentence
from redteam.evaluation.results import Verdict
from redteam.evaluation.statistics import Interval
from redteam.threat import THREAT_MODELS, threat_model


def around(value: float) -> Interval:
    return Interval(value, value - 0.05, value + 0.05, 5, "seeds")


def verdict(word: str = "BROKEN", **more: Any) -> Verdict:
    given: dict[str, Any] = {
        "scenario": "digits",
        "defense": "lock",
        "threat": "weights-only",
        "verdict": word,
        "reason": "so it is",
        "flags": (),
        "attack": "fit",
        "merger": "ties",
        "theft": around(0.6),
        "counted": around(0.6),
        "protection": around(0.9),
        "fallen": 5,
    }
    return Verdict(**{**given, **more})


def test_a_lock_that_falls_on_some_seeds_says_on_how_many() -> None:
    told = sentence(verdict(flags=("SOMETIMES",), fallen=2))
    assert "does not protect every model" in told
    assert "on 2 of five seeds" in told
    assert "every model" not in sentence(verdict())


def test_what_data_buy_anyway_is_not_said_to_be_stolen() -> None:
    told = sentence(verdict(threat="data-rich", theft=around(0.9), counted=around(0.6), advantage=around(0.6)))
    assert "0.60 of what the victim adds, beyond what the same data buy without the victim, comes back" in told
    assert "0.90" not in told


def test_the_baseline_is_no_defense_that_failed() -> None:
    bare = verdict("INEFFECTIVE", protection=around(0.05), gated=False)
    told = sentence(bare, {"lock": "No defense: the victim as it is."})
    assert told == "No defense: a plain merge gets 0.95 of what the victim adds."
    assert sentence(bare.model_copy(update={"gated": True})).startswith("lock does not protect: even a plain merge")


def test_where_no_attack_helped_none_is_called_the_strongest() -> None:
    held = verdict("HOLDS-SO-FAR", counted=around(0.1), theft=around(0.1))
    assert "no attack got more than a plain merge: 0.10" in sentence(held)
    assert "the strongest attack (fit) got 0.30" in sentence(held.model_copy(update={"counted": around(0.3)}))


@pytest.mark.parametrize("name", THREAT_MODELS)
def test_every_threat_model_has_a_phrase(name: str) -> None:
    assert means(verdict(threat=name)) == threat_model(name).short != ""


def test_what_nobody_knows_is_named_as_it_is_written() -> None:
    assert means(verdict(threat="telepathy")) == "under telepathy"
    assert named("not a = reference", {}) == "not a = reference"


def test_numbers_in_words() -> None:
    assert [plural(n, "seed") for n in (0, 1, 2, 12)] == ["no seeds", "one seed", "two seeds", "12 seeds"]
    spans = [duration(s) for s in (0.03, 0.21, 45.2, 300, 20000)]
    assert spans == ["under 0.1 s", "0.2 s", "45 s", "5 min", "5.6 h"]
