"""Two runs or two models beside each other: what differs, and whether it matters."""

from redteam.diff.findings import ModelDiff, RunDiff
from redteam.diff.models import diff_models
from redteam.diff.runs import diff_runs

__all__ = ["ModelDiff", "RunDiff", "diff_models", "diff_runs"]
