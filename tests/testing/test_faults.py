"""Every fault is noticed by the clause that is meant, and by no other."""

from __future__ import annotations

from pathlib import Path

import pytest

from redteam.plugins.contracts import spec_of
from redteam.plugins.files import module_from
from redteam.plugins.reference import Reference
from redteam.testing import checks_for

FILE = Path(__file__).with_name("crippled.py")
MODULE = module_from(FILE)
NAMES = [spec.name for value in vars(MODULE).values() if (spec := spec_of(value))]


def test_each_says_what_it_is_meant_to_fail() -> None:
    assert set(NAMES) == set(MODULE.FAULTS)


@pytest.mark.parametrize("name", NAMES)
def test_what_fails_is_what_is_meant(name: str) -> None:
    checks = checks_for(Reference(f"{FILE}@{name}"))
    outcomes = [(check.clause, check.run()) for check in checks]
    failed = {clause for clause, outcome in outcomes if outcome.status == "failed"}
    assert failed == MODULE.FAULTS[name], [outcome for _, outcome in outcomes if outcome.status == "failed"]
    assert all(outcome.reason and "\n" not in outcome.reason for _, outcome in outcomes)
