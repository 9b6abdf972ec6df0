"""What protects nothing, or is not what it says, is told so: the ceiling is not anybody's."""

from __future__ import annotations

from typing import Any

import pytest


@pytest.mark.parametrize("defense", ["newborn", "drowned"])
def test_where_nothing_is_left_to_protect_nothing_holds(bench: Any, defense: str) -> None:
    verdict = bench.verdict(bench.lock(defense), (bench.attack("sound-permutation"),))
    assert verdict.verdict == "INVALID", verdict.reason
    assert verdict.fidelity["float32"].mean < 0.6


def test_a_claim_to_keep_the_function_is_measured(bench: Any) -> None:
    lie = bench.verdict(bench.lock("boastful", size=0.2), (bench.attack("farthest-permutation"),))
    assert "NOT-EXACT" in lie.flags
    truth = bench.verdict(bench.lock("cross", group="permutation"), (bench.attack("farthest-permutation"),))
    assert "NOT-EXACT" not in truth.flags


@pytest.mark.parametrize("attacks", [(), ("farthest-permutation",)])
def test_a_seed_that_stands_in_the_code_is_no_key(bench: Any, attacks: tuple[str, ...]) -> None:
    verdict = bench.verdict(bench.lock("fixed-seed"), tuple(bench.attack(name) for name in attacks))
    assert verdict.verdict == "BROKEN", verdict.reason
    assert "key" in verdict.reason
    assert verdict.theft.mean > 0.9


def test_a_keyed_lock_that_trains_first_can_be_taken_off(bench: Any) -> None:
    everything = bench.run((bench.lock("trains-first"),), (bench.attack("farthest-permutation"),), controls="all")
    cells = {cell.attack: cell for cell in everything.cells if cell.role in ("ceiling", "guess")}
    assert cells["random-key"].status == "ok", cells["random-key"].reason
    (verdict,) = everything.verdicts
    assert verdict.verdict in ("INVALID", "INCONCLUSIVE"), verdict.reason
    held = [c for c in everything.controls if c.control == "ceiling" and c.attack == "key-holder"]
    assert [(c.status, c.passed) for c in held] == [("ok", True)], [c.explanation for c in held]
