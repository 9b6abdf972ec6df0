"""What is said of time, memory and disk that a plan will take, from one merge that was measured."""

from __future__ import annotations

import shutil
from collections.abc import Iterator, Mapping
from pathlib import Path

from redteam.checking.trial import Trial
from redteam.evaluation.estimate import span
from redteam.evaluation.footprint import PROGRAM, WORKER, Footprint
from redteam.evaluation.plan import Plan, run_folder
from redteam.evaluation.preview import Preview, preview
from redteam.memory import free, shown
from redteam.plugins.remarks import Remark
from redteam.tasks import Scenario

RESERVE = 1.2
"""By how much more is asked for than was measured."""


def costs(scenario: Scenario, found: Trial, plan: Plan, folder: Path, *, workers: int) -> Iterator[Remark]:
    """Time, memory and disk of a plan on this scenario.

    Args:
        scenario: The scenario, loaded in this process.
        found: What one merge took.
        plan: The plan.
        folder: Where relative paths of it start.
        workers: Processes that would compute.
    """
    asked, size = preview(plan, folder=folder), Footprint.of(scenario)
    seconds = size.seconds(found.item, found.wide, found.merge)
    total, further = (_seconds(counts, seconds) for counts in (asked.computed, asked.further))
    more = sum(asked.further.values())
    computations = f"{sum(asked.computed.values())} computations, and up to {more} more as it turns out"
    takes = f"{span(total / workers)} to {span((total + further) / workers)} on {workers} cores"
    merge = f"a merge and its scores take {seconds['merge']:.1f} s"
    yield Remark(
        "ok", "time", f"the plan {plan.name}: {computations}; {takes}, and the attacks' own work on top ({merge})"
    )
    yield _memory(found, size, workers)
    yield _disk(scenario, asked, run_folder(plan, None))


def _seconds(counts: Mapping[str, int], each: Mapping[str, float]) -> float:
    return sum(count * each[kind] for kind, count in counts.items())


def _memory(found: Trial, size: Footprint, workers: int) -> Remark:
    there, measured = free(), RESERVE * 1e6 * (found.resident or 0.0)
    each, one = WORKER + size.least, max(PROGRAM + WORKER + size.least, measured)
    told = (
        f"{shown(one)} with one process and {shown(each)} for each further one, as far as --memory lets them; a "
        f"computation that trains takes {shown(size.training)} more"
    )
    if there is None:
        return Remark("note", "memory", f"{told}; this system does not tell how much is free")
    there += 1e6 * (found.resident or 0.0)  # this process gives its own back
    told += f"; {shown(there)} are free"
    if one > there:
        return Remark("WRONG", "memory", f"{told}, too little for one; free some, or use a larger machine")
    if one + (workers - 1) * each > there:
        return Remark("note", "memory", f"{told}, too little for {workers}; run with --memory {_most(there)}")
    return Remark("ok", "memory", told)


def _most(count: float) -> str:
    """Most of what is free, as `--memory` takes it."""
    return f"{int(count / RESERVE / 1e8) / 10:g}GB"


def _disk(scenario: Scenario, asked: Preview, folder: Path) -> Remark:
    most = scenario.experts[scenario.victim].nbytes * sum(asked.computed.get(kind, 0) for kind in ("lock", "attack"))
    place = next(path for path in (folder.absolute(), *folder.absolute().parents) if path.exists())
    room = shutil.disk_usage(place).free
    told = f"up to {shown(most)} while it runs, in {folder}; {shown(room)} are free"
    if most > room:
        return Remark("WRONG", "disk", f"{told}, too little; name a folder elsewhere with --out")
    return Remark("ok", "disk", told)
