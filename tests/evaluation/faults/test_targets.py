"""Who made an attack, and for which defense: a name that ships is not a stranger's, and an author is no witness."""

from __future__ import annotations

from typing import Any


def test_an_author_whose_own_attack_fails_is_told_apart(bench: Any) -> None:
    verdict = bench.verdict(bench.of("solo.py", "homemade"), (bench.of("solo.py", "own-breaker"),))
    assert verdict.verdict == "HOLDS-SO-FAR", verdict.reason
    assert "SELF-ATTACKED" in verdict.flags
    assert "solo.py" in verdict.reason


def test_somebody_else_is_a_witness(bench: Any) -> None:
    verdict = bench.verdict(bench.lock("cross-gentle"), (bench.attack("sound-permutation"),))
    assert verdict.verdict == "HOLDS-SO-FAR", verdict.reason
    assert "SELF-ATTACKED" not in verdict.flags
    assert "cripples.py" in verdict.reason


def test_a_name_that_ships_does_not_inherit_the_attacks_on_it(bench: Any) -> None:
    verdict = bench.verdict(bench.of("solo.py", "planar"), ("procrustes:sites=[qk]", "hungarian"))
    assert "NO-ADAPTIVE-ATTACK" in verdict.flags
    assert verdict.verdict in ("INVALID", "INCONCLUSIVE"), verdict.reason
