"""Locks of several kinds, keys and shapes against attacks that are crippled just there: none is said to hold."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from redteam.plugins.files import module_from

CRIPPLED = module_from(Path(__file__).parent / "cripples.py")
NAMES = [function.__name__.replace("_", "-") for function in CRIPPLED.CRIPPLES]
SITES = {"all": ("qk", "vo", "mlp"), "heads": ("qk", "vo"), "far": ("qk", "mlp")}
OPEN = ("INVALID", "INCONCLUSIVE", "BROKEN")
"""What may be said of them; UNSCORABLE would mean that nothing was judged."""

LOCKS = (
    ("cross", "all", "permutation"),
    ("cross-gentle", "all", "orthogonal"),
    ("cross", "all", "orthogonal"),
    ("cross", "all", "general-linear"),
    ("cross", "far", "permutation"),
    ("cross-heads", "heads", "orthogonal"),
    ("cross-hair", "all", "permutation"),
)
CROSSED = [(*lock, name) for lock in LOCKS for name in NAMES]
NARROW = [
    (defense, group, attack)
    for defense in ("cross", "cross-heads", "cross-hair")
    for group in ("permutation", "orthogonal")
    for attack in ("neurons", "unclaimed")
]
RESHAPED = [
    (defense, name)
    for defense in ("one-more", "wider")
    for name in ("sound", "of-its-shape", "gives-up", "shy", "farthest", "choosy")
]
CHAINED = [
    (chain, name)
    for chain in (("rotation", "permutation"), ("rotation", "cross"), ("permutation", "null-shift"))
    for name in ("gives-up", "farthest", "shy")
]


def test_there_are_enough_cases() -> None:
    assert len(CROSSED) + len(NARROW) + len(RESHAPED) + len(CHAINED) >= 100


def _marked(cases: list[Any], step: int) -> list[Any]:
    """One of several always, all of them in `make acceptance`."""
    return [pytest.param(*case, marks=[pytest.mark.slow] if at % step else []) for at, case in enumerate(cases)]


@pytest.mark.parametrize(("defense", "sites", "group", "name"), _marked(CROSSED, 18))
def test_whoever_is_crippled_by_a_composition_makes_nothing_hold(
    bench: Any, defense: str, sites: str, group: str, name: str
) -> None:
    lock = bench.lock(defense, sites=SITES[sites], group=group)
    verdict = bench.verdict(lock, (bench.attack(f"{name}-{group}"),))
    assert verdict.verdict in OPEN, verdict.reason


@pytest.mark.parametrize(("defense", "sites", "group"), _marked(list(LOCKS), 4))
def test_what_they_are_crippled_from_breaks_the_same_locks(bench: Any, defense: str, sites: str, group: str) -> None:
    lock = bench.lock(defense, sites=SITES[sites], group=group)
    verdict = bench.verdict(lock, (bench.attack(f"sound-{group}"),))
    assert verdict.verdict == "BROKEN", verdict.reason
    assert f"sound-{group}" in verdict.reason


@pytest.mark.parametrize(("defense", "group", "attack"), _marked(NARROW, 5))
def test_a_variant_that_is_weaker_in_extent_proves_nothing(bench: Any, defense: str, group: str, attack: str) -> None:
    verdict = bench.verdict(bench.lock(defense, group=group), (bench.attack(attack),))
    assert verdict.verdict in OPEN, verdict.reason


@pytest.mark.parametrize(("defense", "name"), _marked(RESHAPED, 5))
def test_shapes_that_an_attack_cannot_take_are_no_protection(bench: Any, defense: str, name: str) -> None:
    verdict = bench.verdict(bench.lock(defense), (bench.attack(f"{name}-permutation"),))
    assert verdict.verdict in OPEN, verdict.reason


@pytest.mark.parametrize(("chain", "name"), _marked(CHAINED, 4))
def test_nor_are_chains(bench: Any, chain: tuple[str, ...], name: str) -> None:
    text = "+".join(bench.lock(link) if link == "cross" else link for link in chain)
    verdict = bench.verdict(text, (bench.attack(f"{name}-orthogonal"),))
    assert verdict.verdict in OPEN, verdict.reason
