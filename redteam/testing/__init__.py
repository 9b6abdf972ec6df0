"""The contract suite for authors of plugins: what `redteam check` runs, as functions and as classes for pytest."""

from redteam.testing.contracts import AttackContract, DefenseContract, MergerContract
from redteam.testing.outcome import Check, Outcome
from redteam.testing.suite import checks_for, plugins
from redteam.testing.toys import toy_architectures, toy_scenario

__all__ = [
    "AttackContract",
    "Check",
    "DefenseContract",
    "MergerContract",
    "Outcome",
    "checks_for",
    "plugins",
    "toy_architectures",
    "toy_scenario",
]
