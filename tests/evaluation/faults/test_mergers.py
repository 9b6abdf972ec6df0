"""A merger with which nothing is gained says nothing of a lock."""

from __future__ import annotations

from typing import Any


def test_a_merger_of_no_use_is_left_out(bench: Any) -> None:
    mergers = ("task-arithmetic", bench.of("mergers.py", "ignores-experts"))
    lock, attack = bench.lock("cross", group="permutation"), bench.attack("sound-permutation")
    verdict = bench.verdict(lock, (attack,), mergers=mergers)
    assert verdict.verdict == "BROKEN", verdict.reason
    assert verdict.merger == "task-arithmetic"


def test_without_any_other_nothing_can_be_scored(bench: Any) -> None:
    mergers = (bench.of("mergers.py", "ignores-experts"),)
    verdict = bench.verdict(bench.lock("cross", group="permutation"), mergers=mergers)
    assert verdict.verdict == "UNSCORABLE", verdict.reason


def test_controls_are_not_merged_with_it_either(bench: Any) -> None:
    mergers = (bench.of("mergers.py", "ignores-experts"), "task-arithmetic")
    verdict = bench.verdict(bench.lock("reborn"), (bench.attack("sound-permutation"),), mergers=mergers)
    assert verdict.verdict == "HOLDS-SO-FAR", verdict.reason
