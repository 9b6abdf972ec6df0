"""Attacks that have seen what they should not have count for nothing: neither their breaks nor their failures."""

from __future__ import annotations

from typing import Any

import pytest

DIGGERS = ("digs", "digs-with-care", "finds")


@pytest.mark.parametrize("digger", DIGGERS)
def test_what_was_dug_up_is_not_stolen(bench: Any, digger: str) -> None:
    results = bench.run((bench.lock("cross-gentle"),), (bench.of("diggers.py", digger),))
    (cell,) = (c for c in results.cells if c.attack == digger)
    assert cell.scores["theft"] > 0.9, "then it found nothing"
    (verdict,) = results.verdicts
    assert verdict.verdict in ("INVALID", "INCONCLUSIVE"), verdict.reason
    failed = {c.control for c in results.controls if c.attack == digger and not c.passed}
    assert failed & {"floor", "gone"}


@pytest.mark.parametrize("digger", DIGGERS)
def test_others_are_judged_beside_it(bench: Any, digger: str) -> None:
    digging = bench.of("diggers.py", digger)
    broken = bench.verdict(bench.lock("cross-gentle"), (digging, bench.attack("sound-orthogonal")))
    assert broken.verdict == "BROKEN", broken.reason
    assert "sound-orthogonal" in broken.reason
    assert broken.attack == "sound-orthogonal"
    held = bench.verdict(bench.lock("cross-gentle"), (digging, bench.attack("sound-permutation")))
    assert held.verdict == "HOLDS-SO-FAR", held.reason


def test_labels_that_do_without_the_victim_are_no_evidence(bench: Any) -> None:
    attack = bench.of("diggers.py", "labels-only")
    for lock in ("cross", "cross-gentle"):
        results = bench.run((bench.lock(lock, group="orthogonal"),), (attack,), threats=("data-rich",))
        (cell,) = (c for c in results.cells if c.attack == "labels-only")
        assert cell.scores["theft"] > 0.8, "then its labels are worth nothing"
        assert cell.scores["advantage"] < 0.1
        (verdict,) = results.verdicts
        assert verdict.verdict in ("INVALID", "INCONCLUSIVE"), verdict.reason
        assert verdict.price is None or verdict.price.attack != "labels-only"


def test_nor_are_labels_that_are_used_where_something_moved_alone(bench: Any) -> None:
    """From the base it does nothing, so that all that its labels buy would look like the victim's."""
    attack = bench.of("diggers.py", "moved-only")
    results = bench.run((bench.lock("wiped"),), (attack,), threats=("data-rich",))
    (cell,) = (c for c in results.cells if c.attack == "moved-only")
    assert cell.scores["advantage"] > 0.5, "then there is nothing to be taken in by"
    (verdict,) = results.verdicts
    assert verdict.verdict == "INVALID", verdict.reason
    assert [c.passed for c in results.controls if (c.control, c.attack) == ("gone", "moved-only")] == [False]
