"""Whatever is registered keeps its contract, in every architecture. An exception needs a reason, and ends by itself."""

from __future__ import annotations

import pytest

from redteam.plugins.registry import ATTACKS, DEFENSES, MERGERS
from redteam.testing import checks_for

ALWAYS = ("runs", "needs", "layout", "finite", "inputs", "global state", "deterministic", "errors", "elsewhere")
EXCEPTIONS = {
    ("defense", "fresh", "re-keyable"): "it draws its weights under the key and says that it is not keyed",
    ("defense", "padded-heads", "function: bert"): "where no config can name a head width, it does not refuse",
}
PLUGINS = [(registry.kind, name) for registry in (ATTACKS, DEFENSES, MERGERS) for name in registry]


@pytest.mark.parametrize(("kind", "name"), PLUGINS)
def test_contract(kind: str, name: str) -> None:
    outcomes = {check.name: check.run() for check in checks_for(name, kind=kind)}
    failed = {check: one.reason for check, one in outcomes.items() if one.status == "failed"}
    expected = {check for k, n, check in EXCEPTIONS if (k, n) == (kind, name)}
    assert set(failed) == expected, failed
    # Nothing passes by not being applicable: what every plugin is asked is answered for every plugin.
    assert {check for check in ALWAYS if outcomes[check].status == "not applicable"} == set()


def test_exceptions_have_reasons_and_are_of_plugins_that_are_there() -> None:
    assert all(EXCEPTIONS.values())
    assert {(kind, name) for kind, name, _ in EXCEPTIONS} <= set(PLUGINS)
