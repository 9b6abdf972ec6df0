"""A scenario's unlocked merges on a few items: the steps that every run begins with, a small part of each."""

from __future__ import annotations

import tempfile
import time
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path

from redteam.errors import Inapplicable
from redteam.evaluation.baselines import Baselines
from redteam.evaluation.computations import run_step
from redteam.evaluation.design import Design, build
from redteam.evaluation.metrics import peak
from redteam.evaluation.plan import Plan
from redteam.evaluation.resolve import Resolved
from redteam.evaluation.runner.scheduler import behind
from redteam.evaluation.runner.store import Store
from redteam.evaluation.scoring import Table
from redteam.evaluation.steps import Merged, Outcome, Scored, Step
from redteam.tasks import Scenario, Split, Task

ITEMS = 64
"""Of each task, test items and validation items that are looked at."""
_COEFFICIENTS = 6  # among which a merger's is chosen; a run tries all


@dataclass(frozen=True)
class Trial:
    """What the trial gave.

    Attributes:
        alone: Base and experts alone.
        baselines: Merger → the merges with and without the victim.
        merge: CPU seconds of one merge with the first merger.
        item: CPU seconds that scoring one item of one task takes.
        wide: CPU seconds that scoring one of the victim's in every dtype takes.
        resident: The largest that this process was meanwhile, in MB; `None` where the system does not tell.
    """

    alone: Scored
    baselines: Mapping[str, Baselines]
    merge: float
    item: float
    wide: float
    resident: float | None


def tried(scenario: Scenario, plan: Plan, folder: Path) -> Trial:
    """Computes what a plan of one scenario under one seed would begin with.

    Args:
        scenario: The scenario.
        plan: Names it, and the mergers to try, the first of which is timed.
        folder: Where relative paths of the plan start.

    Raises:
        RedteamError: If a plugin cannot do it.
    """
    resolved = Resolved.of(plan, folder)
    ((where, _),) = resolved.places.items()
    design = build(resolved, {where: scenario.digest()})
    few = replace(scenario, tasks={name: _few(task) for name, task in scenario.tasks.items()})
    outcomes: dict[str, Outcome] = {}
    merges: list[tuple[float, Merged]] = []
    peaks = [peak() or 0.0]
    with tempfile.TemporaryDirectory() as place:
        store = Store(Path(place))
        for step in behind(_coarser(design), [name for ground in design.grounds.values() for name in ground]):
            started = time.process_time()
            try:
                if any(outcomes[name].status != "ok" for name in step.inputs.values()):
                    raise Inapplicable("what it needs is missing")
                record = run_step(step, store, few)
            except Inapplicable as error:  # a merger of another number of experts
                outcomes[step.name] = Outcome("skipped", reason=str(error), inapplicable=True)
                continue
            spent = time.process_time() - started
            peaks.append(peak() or 0.0)
            store.put(step, record)
            outcomes[step.name] = Outcome("ok", record)
            if isinstance(record, Merged):
                merges.append((spent, record))
    spent, merge = merges[0]
    items = sum(packed.n for packed in merge.tasks.values())
    table = Table(design, outcomes)
    found = {ground.merger: table.ground_baselines(where) for where, ground in design.grounds.items()}
    baselines = {merger: one for merger, one in found.items() if one is not None}
    alone: Scored = outcomes[next(iter(design.grounds.values())).alone].record
    return Trial(
        alone,
        baselines,
        merge=merge.cost.seconds,
        item=max(spent - merge.cost.seconds, 0.0) / items,
        wide=alone.stored_seconds / alone.experts[scenario.victim].n,
        resident=max(peaks) or None,
    )


def _coarser(design: Design) -> dict[str, Step]:
    """The steps, where a merger's setting is chosen among a few."""
    steps = dict(design.steps)
    for name in {ground.tune for ground in design.grounds.values()}:
        tried = list(steps[name].inputs.items())
        stride = max(1, len(tried) // _COEFFICIENTS)
        steps[name] = replace(steps[name], inputs=dict(tried[stride // 2 :: stride]))
    return steps


def _few(task: Task) -> Task:
    """The task with some of its validation and test items, spread over all."""
    splits: tuple[Split, ...] = ("validation", "test")
    for split in splits:
        count = len(next(iter(task.inputs_of(split).values())))
        stride = _prime(count // ITEMS)
        task = task.part(split, slice(0, min(count, ITEMS * stride), stride))
    return task


def _prime(most: int) -> int:
    """The largest prime up to a number, or 1: labels that stand in turns are not met one and the same."""
    return next((n for n in range(most, 1, -1) if all(n % d for d in range(2, int(n**0.5) + 1))), 1)
