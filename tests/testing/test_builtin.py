"""Whatever is registered keeps its contract, in every architecture. There are no exceptions."""

from __future__ import annotations

from importlib.util import find_spec

import pytest

from redteam.plugins.registry import ATTACKS, DEFENSES, MERGERS
from redteam.testing import checks_for

ALWAYS = ("runs", "needs", "layout", "finite", "inputs", "global state", "deterministic", "errors", "elsewhere")
LONG = {
    "collusion",
    "companion-anchor",
    "distill-own",
    "head-matching",
    "invariant-space",
    "learned-linear",
    "mergeguard",
    "mergetune",
    "neulig",
    "optimal-transport",
    "regmean-regression",
    "seed-regeneration",
    "trap2",
}  # four seconds and more
BRIEF = {"adamerging": "adamerging:steps=4"}
"""Of five hundred steps each check would take ten seconds, and see nothing else."""
WITHOUT = pytest.mark.skipif(find_spec("mergekit") is None, reason="mergekit is not installed (the extra mergekit)")
PLUGINS = [
    pytest.param(
        registry.kind, name, marks=[pytest.mark.slow] if name in LONG else [WITHOUT] if name == "mergekit" else []
    )
    for registry in (ATTACKS, DEFENSES, MERGERS)
    for name in registry
]


@pytest.mark.parametrize(("kind", "name"), PLUGINS)
def test_contract(kind: str, name: str) -> None:
    outcomes = {check.name: check.run() for check in checks_for(BRIEF.get(name, name), kind=kind)}
    assert {check: one.reason for check, one in outcomes.items() if one.status == "failed"} == {}
    # Nothing passes by not being applicable: what every plugin is asked is answered for every plugin.
    assert {check for check in ALWAYS if outcomes[check].status == "not applicable"} == set()
