"""The seed is the unit: one that falls breaks a lock, and one that is another over again is none."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from redteam.plugins.files import module_from

WORLDS = module_from(Path(__file__).parent / "worlds.py")
SEEDS = 5


def beginnings(*seeds: int) -> tuple[str, ...]:
    """How the digests of these seeds' victims begin."""
    return tuple(WORLDS.world(seed=seed).experts["victim"].digest()[:12] for seed in seeds)


@pytest.mark.parametrize(
    ("falling", "seeds"),
    [
        ((1,), 3),
        ((0, 2), 3),
        pytest.param((3,), SEEDS, marks=pytest.mark.slow),
        pytest.param((0, 1, 2, 4), SEEDS, marks=pytest.mark.slow),
    ],
)
def test_a_lock_that_falls_on_some_seeds_is_broken(bench: Any, falling: tuple[int, ...], seeds: int) -> None:
    lock = bench.lock("fallible", falls=beginnings(*falling))
    verdict = bench.verdict(lock, (bench.attack("farthest-permutation"),), seeds=seeds)
    assert verdict.verdict == "BROKEN", verdict.reason
    assert "SOMETIMES" in verdict.flags
    assert f"{len(falling)} of {seeds}" in verdict.reason


def test_of_two_seeds_one_is_enough(bench: Any) -> None:
    lock = bench.lock("fallible", falls=beginnings(1))
    verdict = bench.verdict(lock, seeds=2)
    assert verdict.verdict == "BROKEN", verdict.reason
    assert "SOMETIMES" in verdict.flags


def test_one_that_falls_on_all_does_not_fall_sometimes(bench: Any) -> None:
    verdict = bench.verdict(bench.lock("cross", group="permutation"), (bench.attack("sound-permutation"),), seeds=2)
    assert verdict.verdict == "BROKEN", verdict.reason
    assert "SOMETIMES" not in verdict.flags


def test_five_times_one_seed_is_one(bench: Any) -> None:
    lock, attack = bench.lock("cross", group="permutation"), (bench.attack("sound-permutation"),)
    five = bench.verdict(lock, attack, seeds=SEEDS, world={"same": True})
    assert "ONE-SEED" in five.flags
    assert five.theft.seeds == 1
    one = bench.verdict(lock, attack, seeds=1, world={"same": True})
    assert (five.theft.low, five.theft.high) == pytest.approx((one.theft.low, one.theft.high))


@pytest.mark.slow
def test_an_interval_is_never_narrower_than_its_seeds_own(bench: Any) -> None:
    attacks = (bench.of("spoilers.py", "spoils", size=0.3), bench.attack("substitutes-permutation"))
    lock = bench.lock("cross", group="permutation", sites=("qk", "mlp"))

    def widths(seeds: Any) -> dict[str, float]:
        found = bench.run((lock,), attacks, seeds=seeds).figures
        return {f.attack: f.theft.high - f.theft.low for f in found if f.theft is not None and f.role == "recovery"}

    together, apart = widths(SEEDS), [widths((seed,)) for seed in range(SEEDS)]
    assert len(together) >= 3
    for attack, width in together.items():
        assert width >= min(single[attack] for single in apart) - 1e-9, attack
