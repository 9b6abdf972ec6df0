"""The contract suite for authors of plugins: what `redteam check` runs, as functions and as classes for pytest."""

from redteam.testing.clock import Clock
from redteam.testing.contracts import AttackContract, DefenseContract, MergerContract, ScenarioContract
from redteam.testing.outcome import Check, Outcome
from redteam.testing.results import toy_results
from redteam.testing.suite import checks_for, plugins, prepare
from redteam.testing.toys import toy_architectures, toy_scenario

__all__ = [
    "AttackContract",
    "Check",
    "Clock",
    "DefenseContract",
    "MergerContract",
    "Outcome",
    "ScenarioContract",
    "checks_for",
    "plugins",
    "prepare",
    "toy_architectures",
    "toy_results",
    "toy_scenario",
]
