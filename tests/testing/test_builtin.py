"""Whatever is registered keeps its contract. There is no list of exceptions."""

from __future__ import annotations

import pytest

from redteam.plugins.registry import ATTACKS, DEFENSES, MERGERS
from redteam.testing import checks_for

PLUGINS = [(registry.kind, name) for registry in (ATTACKS, DEFENSES, MERGERS) for name in registry]


@pytest.mark.parametrize(("kind", "name"), PLUGINS)
def test_contract(kind: str, name: str) -> None:
    outcomes = [check.run() for check in checks_for(name, kind=kind)]
    assert [f"{one.check}: {one.reason}" for one in outcomes if one.status == "failed"] == []
    assert [one.check for one in outcomes if one.check in ("runs", "layout", "finite") and one.status != "passed"] == []
