"""Audits: which lock is on a model, at which sites, and how much of it comes off. Needs the base and no data."""

from redteam.audit.findings import Audit, PairFinding, ShiftFinding, SiteFinding, TensorFinding
from redteam.audit.run import audit
from redteam.audit.walk import Progress
from redteam.audit.words import Row, rows

__all__ = [
    "Audit",
    "PairFinding",
    "Progress",
    "Row",
    "ShiftFinding",
    "SiteFinding",
    "TensorFinding",
    "audit",
    "rows",
]
