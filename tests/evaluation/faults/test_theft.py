"""Theft is what the attacker nets, without a cliff; another length of the task vector is no lock."""

from __future__ import annotations

from typing import Any

import pytest

COMPANIONS = ("left", "right")


@pytest.mark.parametrize("factor", [0.5, 2.0, 10.0])
def test_a_task_vector_of_another_length_is_no_lock(bench: Any, factor: float) -> None:
    verdict = bench.verdict(bench.lock("longer", factor=factor))
    assert verdict.verdict == "INEFFECTIVE", verdict.reason
    assert verdict.theft.mean > 0.5
    assert verdict.protection.mean < 0.5


def test_what_the_companions_lose_is_charged_and_not_a_cliff(bench: Any) -> None:
    sizes = (0.0, 0.1, 0.15, 0.2, 0.25, 0.3, 0.5)
    results = bench.run(("none",), tuple(bench.of("spoilers.py", "spoils", size=size) for size in sizes))
    (ground,) = results.grounds
    charged = 0
    for cell in results.cells:
        if cell.role not in ("recovery", "naive") or cell.status != "ok":
            continue
        lost = sum(max(0.0, ground.reference[t] - cell.tasks[t] - 0.02) for t in COMPANIONS)
        net = (cell.tasks["victim"] - ground.without["victim"] - lost) / ground.gain
        if cell.attack.startswith("spoils"):
            charged += lost > 0 and 0 < net < 1
            assert cell.scores["theft"] == pytest.approx(min(max(net, 0.0), 1.0), abs=1e-9)
    assert charged >= 2, "then nothing was tried between all and nothing"
