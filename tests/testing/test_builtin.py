"""Whatever is registered keeps its contract, in every architecture; what rewrites adapters alone says so."""

from __future__ import annotations

from importlib.util import find_spec

import pytest

from redteam.errors import BadInput
from redteam.plugins.registry import ATTACKS, DEFENSES, MERGERS
from redteam.testing import checks_for

ALWAYS = ("runs", "needs", "layout", "finite", "inputs", "global state", "deterministic", "errors", "elsewhere")
LONG = {
    "activation-procrustes",
    "balance",
    "balance-companions",
    "collusion",
    "companion-anchor",
    "distill-own",
    "head-matching",
    "imitation",
    "invariant-space",
    "learned-linear",
    "mergeguard",
    "mergetune",
    "neulig",
    "optimal-transport",
    "pseudo-rehearsal",
    "rebasin",
    "regmean-regression",
    "seed-regeneration",
    "trap2",
}  # four seconds and more
BRIEF = {"adamerging": "adamerging:steps=4"}
"""Of five hundred steps each check would take ten seconds, and see nothing else."""
WITHOUT = pytest.mark.skipif(find_spec("mergekit") is None, reason="mergekit is not installed (the extra mergekit)")
OF_ADAPTERS = ("adapter-gauge", "multiply-out")
PLUGINS = [
    pytest.param(
        registry.kind, name, marks=[pytest.mark.slow] if name in LONG else [WITHOUT] if name == "mergekit" else []
    )
    for registry in (ATTACKS, DEFENSES, MERGERS)
    for name in registry
    if name not in OF_ADAPTERS
]


@pytest.mark.parametrize(("kind", "name"), PLUGINS)
def test_contract(kind: str, name: str) -> None:
    outcomes = {check.name: check.run() for check in checks_for(BRIEF.get(name, name), kind=kind)}
    assert {check: one.reason for check, one in outcomes.items() if one.status == "failed"} == {}
    # Nothing passes by not being applicable: what every plugin is asked is answered for every plugin.
    assert {check for check in ALWAYS if outcomes[check].status == "not applicable"} == set()


@pytest.mark.parametrize("name", OF_ADAPTERS)
def test_what_rewrites_the_factors_of_an_adapter_is_not_tried_on_whole_models(name: str) -> None:
    with pytest.raises(BadInput, match="rewrites the factors of an adapter"):
        checks_for(name)
