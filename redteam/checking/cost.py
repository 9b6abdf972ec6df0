"""What is said of time, memory and disk that a plan will take, from one merge that was measured."""

from __future__ import annotations

import math
import shutil
from collections.abc import Iterator, Mapping
from pathlib import Path

from redteam.checking.trial import Trial
from redteam.evaluation.plan import Plan, run_folder
from redteam.evaluation.preview import Preview, preview
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
    asked = preview(plan, folder=folder)
    seconds = cell_seconds(scenario, found)
    total, further = (_seconds(counts, seconds) for counts in (asked.computed, {"merge": asked.further}))
    computations = f"{sum(asked.computed.values())} computations, and up to {asked.further} more as it turns out"
    takes = f"{span(total / workers)} to {span((total + further) / workers)} on {workers} cores"
    merge = f"a merge and its scores take {seconds['merge']:.1f} s"
    yield Remark(
        "ok", "time", f"the plan {plan.name}: {computations}; {takes}, and the attacks' own work on top ({merge})"
    )
    yield _memory(found, workers)
    yield _disk(scenario, asked, run_folder(plan, None))


def cell_seconds(scenario: Scenario, found: Trial) -> dict[str, float]:
    """Kind of step → CPU seconds, on all items; of locks and attacks only what a merge without scores takes."""
    test = {name: len(next(iter(task.inputs_of("test").values()))) for name, task in scenario.tasks.items()}
    held = sum(
        len(next(iter(task.inputs_of("validation").values())))
        for name, task in scenario.tasks.items()
        if name != scenario.victim
    )
    scored = found.item * sum(test.values())
    return {
        "alone": 2 * scored + found.item * (3 * test[scenario.victim] + held),
        "try": found.merge + found.item * held,
        "tune": 0.0,
        "lock": found.merge + 3 * found.item * test[scenario.victim],
        "attack": found.merge,
        "merge": found.merge + scored,
    }


def span(seconds: float) -> str:
    """`"40 s"`, `"12 min"`, `"3.5 h"`."""
    if seconds < 90:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 5400 else f"{seconds / 3600:.1f} h"


def _seconds(counts: Mapping[str, int], each: Mapping[str, float]) -> float:
    return sum(count * each[kind] for kind, count in counts.items())


def _memory(found: Trial, workers: int) -> Remark:
    resident, free = found.resident, _free_memory()
    if resident is None or free is None:
        return Remark("note", "memory", "this system does not tell how much is used")
    one = RESERVE * resident
    told = f"about {_bytes(one * 1e6)} for each of {workers} processes; {_bytes(free * 1e6)} are free"
    if one > free + resident:
        return Remark("WRONG", "memory", f"{told}, too little for one; free some, or use a larger machine")
    if (fitting := int((free + resident) // one)) < workers:
        return Remark("note", "memory", f"{told}; run with --workers {fitting}")
    return Remark("ok", "memory", told)


def _disk(scenario: Scenario, asked: Preview, folder: Path) -> Remark:
    victim = scenario.experts[scenario.victim]
    size = sum(math.prod(victim.shape(name)) * victim.dtype(name).itemsize for name in victim)
    most = size * sum(asked.computed.get(kind, 0) for kind in ("lock", "attack"))
    place = next(path for path in (folder.absolute(), *folder.absolute().parents) if path.exists())
    free = shutil.disk_usage(place).free
    told = f"up to {_bytes(most)} while it runs, in {folder}; {_bytes(free)} are free"
    if most > free:
        return Remark("WRONG", "disk", f"{told}, too little; name a folder elsewhere with --out")
    return Remark("ok", "disk", told)


def _bytes(count: float) -> str:
    return f"{count / 1e9:.1f} GB" if count >= 1e9 else f"{count / 1e6:.0f} MB"


def _free_memory() -> float | None:
    """What further processes can have, in MB, where the system tells."""
    try:
        lines = Path("/proc/meminfo").read_text(encoding="ascii").splitlines()
    except OSError:
        return None
    return next((int(line.split()[1]) / 1024 for line in lines if line.startswith("MemAvailable:")), None)
