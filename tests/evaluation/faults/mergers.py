"""Mergers that are of no use."""

from __future__ import annotations

from redteam.checkpoint import Checkpoint
from redteam.plugins.contracts import merger
from redteam.views import MergerView


@merger("ignores-experts")
def ignores_experts(view: MergerView) -> Checkpoint:
    """Returns the base: whoever is merged, nothing is gained."""
    return view.base
