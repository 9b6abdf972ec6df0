"""Scenario files that ship beside this module, and what can be said of one without fetching what it names."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from redteam_scenarios.folder.schema import Plan


def plan_of(name: str) -> Plan:
    """The scenario file of a name."""
    return Plan.read(Path(__file__).with_name(f"{name}.toml"))


def names_in(plan: Plan) -> Iterator[tuple[str, str]]:
    """What `redteam show` says: which models and data of the hub are fetched, and how many items are looked at."""
    at = f" at {plan.revision}" if plan.revision else ""
    yield "base", f"{plan.base}{at}"
    yield "victim", plan.victim
    for name, entry in plan.tasks.items():
        yield name, f"{entry.model}; data {entry.data}, {entry.limit} of each split at most"
