"""Mergers that are of no use, and one that no lock stops."""

from __future__ import annotations

from redteam.checkpoint import Checkpoint, shared_tensors
from redteam.errors import Inapplicable
from redteam.plugins.contracts import merger
from redteam.views import MergerView


@merger("ignores-experts")
def ignores_experts(view: MergerView) -> Checkpoint:
    """Returns the base: whoever is merged, nothing is gained."""
    return view.base


@merger("first-only")
def first_only(view: MergerView) -> Checkpoint:
    """Takes the victim whole, if there is one: whatever is done to its weights, its function comes over."""
    expert = next(iter(view.experts.values()))
    return view.base.replace(expert.only(shared_tensors(expert, view.base)))


@merger("takes-two")
def takes_two(view: MergerView) -> Checkpoint:
    """Refuses any other number of experts."""
    if len(view.experts) != 2:
        raise Inapplicable(f"takes-two merges exactly 2 experts and was given {len(view.experts)}.")
    return view.base.replace({n: (a[n] + b[n]) / 2 for n, (a, b) in view.shared()})
