"""Says whether a protection against model merging really holds.

Everything that plugin authors and callers need is found here; it is imported when first asked for, since torch takes
seconds.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from redteam.audit import Audit
    from redteam.checkpoint import Checkpoint, Whole
    from redteam.evaluation.plan import Plan
    from redteam.evaluation.results import Results
    from redteam.evaluation.run import run
    from redteam.key import Key
    from redteam.plugins.contracts import Needs, attack, defense, merger, scenario
    from redteam.plugins.settings import Range
    from redteam.tasks import Classification, LogLikelihood, Scenario, Task
    from redteam.views import AttackerView, DefenderView, MergerView

_HOME = {
    "AttackerView": "redteam.views",
    "Audit": "redteam.audit",
    "Checkpoint": "redteam.checkpoint",
    "Classification": "redteam.tasks",
    "DefenderView": "redteam.views",
    "Key": "redteam.key",
    "LogLikelihood": "redteam.tasks",
    "MergerView": "redteam.views",
    "Needs": "redteam.plugins.contracts",
    "Plan": "redteam.evaluation.plan",
    "Range": "redteam.plugins.settings",
    "Results": "redteam.evaluation.results",
    "Scenario": "redteam.tasks",
    "Task": "redteam.tasks",
    "Whole": "redteam.checkpoint",
    "attack": "redteam.plugins.contracts",
    "defense": "redteam.plugins.contracts",
    "merger": "redteam.plugins.contracts",
    "report": "redteam.plugins.contracts",
    "run": "redteam.evaluation.run",
    "scenario": "redteam.plugins.contracts",
}

__all__ = [
    "AttackerView",
    "Audit",
    "Checkpoint",
    "Classification",
    "DefenderView",
    "Key",
    "LogLikelihood",
    "MergerView",
    "Needs",
    "Plan",
    "Range",
    "Results",
    "Scenario",
    "Task",
    "Whole",
    "attack",
    "defense",
    "merger",
    "report",
    "run",
    "scenario",
]


def __getattr__(name: str) -> Any:
    if name not in _HOME:
        raise AttributeError(f"module 'redteam' has no attribute {name!r}")
    return getattr(import_module(_HOME[name]), name)


def __dir__() -> list[str]:
    return sorted(__all__)
