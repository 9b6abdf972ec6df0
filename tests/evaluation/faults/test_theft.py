"""Theft is what the attacker nets, without a cliff; another length of the task vector is no lock."""

from __future__ import annotations

from typing import Any

import pytest


@pytest.mark.parametrize("factor", [0.5, 2.0, 10.0])
def test_a_task_vector_of_another_length_is_no_lock(bench: Any, factor: float) -> None:
    verdict = bench.verdict(bench.lock("longer", factor=factor))
    assert verdict.verdict == "INEFFECTIVE", verdict.reason
    assert verdict.theft.mean > 0.5
    assert verdict.protection.mean < 0.5
