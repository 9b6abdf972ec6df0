"""More attacks never make a defense safer, whatever they are: strong, weak, noisy, crippled or with data."""

from __future__ import annotations

import random
from typing import Any

import pytest

RANK = {"HOLDS-SO-FAR": 0, "INCONCLUSIVE": 1, "INVALID": 1, "UNSCORABLE": 1, "INEFFECTIVE": 2, "BROKEN": 2}
HONEST = "sound-permutation"
"""The one whose failure on a rotation is evidence; with it a lock may come to hold, as nothing else may make it."""
POOL = (
    HONEST,
    "sound-orthogonal",
    "farthest-orthogonal",
    "gives-up-permutation",
    "bias-left-orthogonal",
    "substitutes-orthogonal",
    "choosy-orthogonal",
    "neurons",
)
LOCKS = {
    "gentle": ("cross-gentle", {"group": "orthogonal"}),
    "broken": ("cross", {"group": "permutation"}),
    "heads": ("cross-heads", {"group": "orthogonal", "sites": ("qk", "vo")}),
}


@pytest.mark.parametrize("lock", LOCKS)
@pytest.mark.parametrize("draw", [0, *(pytest.param(draw, marks=pytest.mark.slow) for draw in (1, 2))])
def test_more_attacks_never_make_it_safer(bench: Any, lock: str, draw: int) -> None:
    name, settings = LOCKS[lock]
    drawn = random.Random(f"{lock}/{draw}").sample(POOL, 5)
    noise = tuple(bench.of("spoilers.py", "spoils", size=size) for size in (0.02, 0.3))
    attacks = [*(bench.attack(one) for one in drawn), *noise]
    random.Random(f"{draw}/{lock}").shuffle(attacks)
    before = None
    for count in (1, 3, 5, len(attacks)):
        verdict = bench.verdict(bench.lock(name, **settings), tuple(attacks[:count]))
        rank = RANK[verdict.verdict]
        if before is not None:
            word, theft, fewer = before
            comes_to_hold = rank == 0 and bench.attack(HONEST) in set(attacks[:count]) - set(fewer)
            assert rank >= RANK[word] or comes_to_hold, (word, verdict.verdict, verdict.reason)
            assert verdict.theft.mean >= theft - 0.05, (word, verdict.verdict, verdict.reason)
        before = (verdict.verdict, verdict.theft.mean, attacks[:count])


def test_an_attack_fitted_to_what_is_seen_does_not_hide_one_that_takes_everything(bench: Any) -> None:
    lock = bench.lock("cross", group="permutation")
    strong, fitted = bench.attack("sound-permutation"), bench.of("spoilers.py", "pretends")
    alone, both = bench.verdict(lock, (strong,)), bench.verdict(lock, (strong, fitted))
    assert (alone.verdict, both.verdict) == ("BROKEN", "BROKEN"), both.reason
    assert both.theft.mean >= alone.theft.mean - 1e-9
