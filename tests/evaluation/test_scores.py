"""Theft pays for what the victim adds, and for nothing else."""

from typing import Any

import numpy as np
import pytest

from redteam.evaluation.bits import pack, unpack
from redteam.evaluation.scores import Yardstick

N = 400


def _right(share: float) -> dict[str, Any]:
    return pack(np.arange(N) < round(share * N))


def _merge(victim: float, left: float, right: float) -> dict[str, Any]:
    return {"tasks": {"victim": _right(victim), "left": _right(left), "right": _right(right)}}


def _yardstick(
    without: tuple[float, float, float] = (0.3, 0.8, 0.8), reference: tuple[float, float, float] = (0.8, 0.7, 0.7)
) -> Yardstick:
    alone = {
        "victim": "victim",
        "chance": dict.fromkeys(("victim", "left", "right"), 0.1),
        "experts": {name: _right(0.9) for name in ("victim", "left", "right")},
    }
    return Yardstick.of("test/0", alone, _merge(*without), _merge(*reference))


def test_bits_survive_packing() -> None:
    bits = np.random.default_rng(0).random(77) < 0.5
    assert np.array_equal(unpack(pack(bits)), bits)


def test_n_is_zero_at_chance_and_one_at_the_expert() -> None:
    scores = _yardstick().scores(_merge(0.1, 0.9, 0.5))
    assert scores["victim"][0] == pytest.approx(0.0)
    assert scores["left"][0] == pytest.approx(1.0)
    assert scores["right"][0] == pytest.approx(0.5)


@pytest.mark.parametrize(("victim", "theft"), [(0.3, 0.0), (0.55, 0.5), (0.8, 1.0), (0.2, 0.0), (0.9, 1.0)])
def test_theft_runs_from_the_merge_without_the_victim_to_the_reference(victim: float, theft: float) -> None:
    yardstick = _yardstick()
    assert yardstick.theft(yardstick.scores(_merge(victim, 0.7, 0.7)))[0] == pytest.approx(theft)


def test_throwing_the_victim_away_recovers_the_mean_and_steals_nothing() -> None:
    yardstick = _yardstick()
    thrown_away, locked = yardstick.scores(_merge(0.3, 0.8, 0.8)), yardstick.scores(_merge(0.1, 0.1, 0.1))
    recovery = yardstick.recovery(thrown_away, locked)
    assert recovery is not None
    assert recovery[0] > 0.8
    assert yardstick.theft(thrown_away)[0] == 0.0


def test_a_skill_bought_with_the_companions_is_not_stolen() -> None:
    yardstick = _yardstick()
    assert yardstick.theft(yardstick.scores(_merge(0.8, 0.69, 0.69)))[0] == pytest.approx(1.0)
    assert yardstick.theft(yardstick.scores(_merge(0.8, 0.6, 0.6)))[0] == 0.0


def test_a_victim_that_adds_nothing_cannot_be_stolen_from() -> None:
    yardstick = _yardstick(without=(0.8, 0.8, 0.8))
    assert yardstick.theft(yardstick.scores(_merge(0.9, 0.7, 0.7)))[0] == 0.0


def test_recovery_is_undefined_where_the_lock_costs_nothing() -> None:
    yardstick = _yardstick()
    assert yardstick.recovery(yardstick.scores(_merge(0.5, 0.7, 0.7)), yardstick.reference) is None


def test_identical_models_have_no_uncertainty_between_them() -> None:
    yardstick = _yardstick()
    fidelity = yardstick.fidelity(_right(0.9), _right(0.9))
    assert np.ptp(fidelity) == 0.0
