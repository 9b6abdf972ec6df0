"""A lock that holds is said to hold, and no longer when any part of the evidence is taken away."""

from __future__ import annotations

from typing import Any

import pytest

HONEST = "sound-permutation"


@pytest.mark.parametrize("defense", ["reborn", "cross-gentle"])
def test_what_holds_is_said_to_hold(bench: Any, defense: str) -> None:
    verdict = bench.verdict(bench.lock(defense), (bench.attack(HONEST),))
    assert verdict.verdict == "HOLDS-SO-FAR", verdict.reason
    assert HONEST in verdict.reason
    assert verdict.theft.high < 0.5
    assert "NO-ADAPTIVE-ATTACK" not in verdict.flags
    assert "SELF-ATTACKED" not in verdict.flags


@pytest.mark.parametrize(
    ("defense", "attacks", "plan"),
    [
        ("reborn", (), {}),
        ("cross-gentle", (), {}),
        ("reborn", ("gives-up-permutation",), {}),
        ("cross-gentle", ("gives-up-permutation",), {}),
        ("cross-gentle", ("bias-left-permutation",), {}),
        ("cross-gentle", ("choosy-permutation",), {"keys": 4}),
        ("cross-gentle", ("stumbles-permutation",), {"keys": 4}),
        ("cross", (HONEST,), {}),
        ("cross-hair", (HONEST,), {}),
        ("reborn", ("neurons",), {}),
    ],
)
def test_without_a_part_of_the_evidence_it_does_not(
    bench: Any, defense: str, attacks: tuple[str, ...], plan: dict[str, Any]
) -> None:
    settings = {"group": "orthogonal"} if defense.startswith("cross") else {}
    verdict = bench.verdict(bench.lock(defense, **settings), tuple(bench.attack(name) for name in attacks), **plan)
    assert verdict.verdict in ("INVALID", "INCONCLUSIVE"), verdict.reason


def test_nor_where_somebody_breaks_it(bench: Any) -> None:
    attacks = tuple(bench.attack(name) for name in (HONEST, "sound-orthogonal"))
    verdict = bench.verdict(bench.lock("cross-gentle"), attacks)
    assert verdict.verdict == "BROKEN", verdict.reason
