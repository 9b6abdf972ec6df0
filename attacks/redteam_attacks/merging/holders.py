"""Which experts hold which tensor."""

from __future__ import annotations

from collections.abc import Iterator

from redteam.checkpoint import Checkpoint
from redteam.views import MergerView


def holders(view: MergerView) -> Iterator[tuple[str, dict[str, Checkpoint]]]:
    """Every tensor that can be merged, in order of its name, with the experts that have it in the base's shape.

    Experts come by task and in the view's order, so that weights and random streams can be looked up by task.
    """
    for name, experts in view.shared():
        tasks = iter(view.experts.items())
        yield name, dict(next((task, mine) for task, mine in tasks if mine is expert) for expert in experts)
