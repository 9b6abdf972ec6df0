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


def test_an_attack_that_claims_nothing_is_no_witness_of_a_change_of_basis(bench: Any) -> None:
    """It would prove itself on a smaller group, and fail on the larger one, without ever having met that."""
    verdict = bench.verdict(bench.lock("cross-gentle"), (bench.attack("claimless"),))
    assert verdict.verdict == "INCONCLUSIVE", verdict.reason
    assert "claims to undo only a part" in verdict.reason


def test_nor_is_one_that_was_shown_weaker_locks(bench: Any) -> None:
    verdict = bench.verdict(bench.lock("far-scaling"), (bench.attack("short-sighted"),))
    assert verdict.verdict == "INCONCLUSIVE", verdict.reason
    assert "weaker than it" in verdict.reason
