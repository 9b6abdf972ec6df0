"""Searches for a defense, made by hand."""

from __future__ import annotations

from typing import Any

from redteam.evaluation.statistics import Interval
from redteam.search.defenders.price import OwnersPrice
from redteam.search.defenders.results import Defenses, Trial, front


def trial(number: int, theft: float, fidelity: float, price: float, **rest: Any) -> Trial:
    """One with figures: the upper bound of its theft, its fidelity and what it adds to the fine-tuning's time."""
    return Trial(
        **{
            "number": number,
            "pipeline": f"d:x={number}",
            "status": "ok",
            "verdict": "INCONCLUSIVE",
            "theft": Interval(theft - 0.1, theft - 0.2, theft, 1, "test items"),
            "attack": "fit",
            "fidelity": Interval(fidelity, fidelity, fidelity, 1, "test items"),
            "price": OwnersPrice(seconds=price),
            **rest,
        }
    )


NAIVE = trial(-1, 1.0, 1.0, 0.0, pipeline="none")
UNPROVEN = Trial(number=90, pipeline="e", status="unproven", reason="INVALID: no attack undid <its> plants")
FAILED = Trial(number=91, pipeline="f", status="error", reason="lock f: not legal here")


def found(*trials: Trial, fidelity: float = 0.95, imitation: float | None = 0.54, **rest: Any) -> Defenses:
    """A search of these trials."""
    line = None if imitation is None else Interval(imitation, imitation - 0.1, imitation + 0.1, 1, "test items")
    dials = {
        "x": {"low": 0.1, "high": 2.0, "log": True, "default": 1},
        "ends": {"ends": [{"low": 0.1, "high": 1.0, "log": True, "default": 0.5}] * 2, "default": [0.5, 0.5]},
        "y": {"choices": [True, False], "default": True},
    }
    return Defenses(
        **{
            "scenario": "digits",
            "seed": 0,
            "merger": "task-arithmetic",
            "threat": "weights-only",
            "attacks": ("gauntlet-1",),
            "split": "validation",
            "wanted": 20,
            "fidelity": fidelity,
            "imitation": line,
            "naive": NAIVE,
            "space": {"steps": 2, "defenses": {"d": {"source": "0", "settings": dials}, "e": {"settings": {}}}},
            "trials": trials,
            "repeated": 1,
            "exhausted": False,
            "front": tuple(one.number for one in front(trials, NAIVE)),
            "seeds": (1, 2),
            "environment": {"redteam": "1"},
            **rest,
        }
    )
