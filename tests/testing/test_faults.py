"""Every fault is noticed by the clause that is meant, and by no other."""

from __future__ import annotations

from pathlib import Path
from types import ModuleType

import pytest

from redteam.plugins.contracts import spec_of
from redteam.plugins.files import module_from
from redteam.plugins.reference import Reference
from redteam.testing import checks_for

FILES = {
    kind: Path(__file__).with_name("faulty") / f"{kind}s.py" for kind in ("attack", "defense", "merger", "scenario")
}
MODULES = {kind: module_from(file) for kind, file in FILES.items()}


def specs(module: ModuleType) -> list[tuple[str, str]]:
    """Kind and name of each plugin."""
    return [(spec.kind, spec.name) for value in vars(module).values() if (spec := spec_of(value))]


CASES = [(kind, name) for kind, module in MODULES.items() for _, name in specs(module)]


@pytest.mark.parametrize("kind", FILES)
def test_each_is_of_its_kind_and_says_what_it_is_meant_to_fail(kind: str) -> None:
    assert sorted(specs(MODULES[kind])) == sorted((kind, name) for name in MODULES[kind].FAULTS)


@pytest.mark.parametrize(("kind", "name"), CASES, ids=[name for _, name in CASES])
def test_what_fails_is_what_is_meant(kind: str, name: str) -> None:
    checks = checks_for(Reference(f"{FILES[kind]}@{name}"))
    outcomes = [(check.clause, check.run()) for check in checks]
    failed = {clause for clause, outcome in outcomes if outcome.status == "failed"}
    assert failed == MODULES[kind].FAULTS[name], [outcome for _, outcome in outcomes if outcome.status == "failed"]
    assert all(outcome.reason and "\n" not in outcome.reason for _, outcome in outcomes)
