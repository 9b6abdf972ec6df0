"""Results to try a writer of reports on, without a run."""

from __future__ import annotations

from typing import get_args

from redteam.evaluation.results import Results, Verdict
from redteam.evaluation.statistics import Interval
from redteam.evaluation.thresholds import THRESHOLDS
from redteam.evaluation.verdict import Word


def toy_results() -> Results:
    """A verdict of every kind, each on a lock of its own; no figures, controls or cells behind them."""
    words = get_args(Word)
    verdicts = tuple(
        Verdict(
            scenario="toy",
            defense=f"lock-{word.lower()}",
            threat="weights-only",
            verdict=word,
            reason="it is a toy",
            flags=("PRELIMINARY",),
            attack="fit",
            merger="linear",
            theft=Interval(at / len(words), 0.0, 1.0, 1, "test items"),
        )
        for at, word in enumerate(words)
    )
    return Results(
        schema=2,
        plan={"name": "toy", "defenses": [one.defense for one in verdicts]},
        command="redteam run toy.toml",
        environment={},
        thresholds={"stolen": THRESHOLDS.stolen},
        grounds=(),
        cells=(),
        controls=(),
        verdicts=verdicts,
    )
