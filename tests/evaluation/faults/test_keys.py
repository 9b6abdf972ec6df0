"""Of several keys the worst counts: in what is stolen, in what is chosen and in what was skipped."""

from __future__ import annotations

from typing import Any

import pytest

KEYS = 4


def thefts(results: Any, attack: str) -> list[float | None]:
    """By key, `None` where the attack did not run to its end."""
    cells = sorted((c for c in results.cells if c.attack == attack), key=lambda cell: cell.key)
    return [cell.scores["theft"] if cell.status == "ok" else None for cell in cells]


@pytest.mark.parametrize("attack", ["neurons", "unclaimed", "gives-up-permutation", "shy-permutation"])
def test_a_lock_that_comes_off_under_one_key_is_broken(bench: Any, attack: str) -> None:
    results = bench.run((bench.lock("weak-key"),), (bench.attack(attack),), keys=KEYS)
    stolen = thefts(results, attack)
    assert max(theft for theft in stolen if theft is not None) > 0.8
    assert any(theft is None or theft < 0.3 for theft in stolen)
    (verdict,) = results.verdicts
    assert verdict.verdict == "BROKEN", verdict.reason
    assert verdict.theft.mean > 0.8
    assert "neither" not in verdict.reason


@pytest.mark.parametrize("attack", ["choosy", "stumbles", "by-turns"])
def test_what_ran_under_one_key_counts_for_what_it_broke(bench: Any, attack: str) -> None:
    results = bench.run((bench.lock("cross"),), (bench.attack(f"{attack}-permutation"),), keys=KEYS)
    stolen = thefts(results, f"{attack}-permutation")
    assert len(stolen) == KEYS
    assert any(theft is not None and theft > 0.8 for theft in stolen)
    assert any(theft is None or theft < 0.3 for theft in stolen)
    (verdict,) = results.verdicts
    assert verdict.verdict == "BROKEN", verdict.reason


@pytest.mark.parametrize("attack", ["shy", "gives-up", "farthest", "nearest"])
def test_two_keys_under_neither_of_which_it_ran_hold_nothing(bench: Any, attack: str) -> None:
    verdict = bench.verdict(bench.lock("cross"), (bench.attack(f"{attack}-permutation"),), keys=2)
    assert verdict.verdict in ("INVALID", "INCONCLUSIVE"), verdict.reason
