"""What a run would do, without computing or writing anything."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from redteam.evaluation.controls.sheet import CHECKS
from redteam.evaluation.design import Design, build
from redteam.evaluation.layout import Layout
from redteam.evaluation.load_scenarios import Where, known_scenarios
from redteam.evaluation.plan import Plan, find_plan, run_folder
from redteam.evaluation.resolve import Resolved
from redteam.evaluation.runner.scheduler import behind
from redteam.evaluation.runner.store import Store
from redteam.evaluation.scoring import Table
from redteam.evaluation.steps import Step


@dataclass(frozen=True)
class Preview:
    """What a run would do.

    Attributes:
        cells: Pairings that the results would hold.
        computed: Kind of step → how many there are.
        further: Kind of step → how many more may turn out to be needed, at most: gauntlets and controls.
        cached: How many of all are finished.
        unprepared: Scenarios and seeds that this folder has not seen, so that nothing is known of their steps.
        megabytes: What the folder holds now.
    """

    cells: int
    computed: Mapping[str, int]
    further: Mapping[str, int]
    cached: int
    unprepared: tuple[str, ...]
    megabytes: float


def preview(
    plan: Plan | Mapping[str, Any] | str | Path, *, out: str | Path | None = None, folder: Path | None = None
) -> Preview:
    """What `run` would compute, without computing or writing anything."""
    plan, home = find_plan(plan)
    resolved = Resolved.of(plan, folder or home)
    root = run_folder(plan, out)
    identities = known_scenarios(resolved, Store(root, write=False))
    # Of what was not loaded so far nothing is known, least of all that it is the same as another.
    guessed = {where: found or f"{where[0]} seed {where[1]}" for where, found in identities.items()}
    design, first = laid_out(resolved, guessed)
    finished = {path.stem for path in (root / "cells").glob("*.json")} if root.is_dir() else set()
    held = (path.stat().st_size for path in root.rglob("*") if path.is_file()) if root.is_dir() else ()
    return Preview(
        cells=sum(len(asked.pairings) for asked in design.asked.values()),
        computed=dict(Counter(step.kind for step in first.values())),
        further=dict(Counter(step.kind for name, step in design.steps.items() if name not in first)),
        cached=len(finished & set(design.steps)),
        unprepared=tuple(f"{name} seed {seed}" for (name, seed), identity in identities.items() if not identity),
        megabytes=sum(held) / 1e6,
    )


def laid_out(
    resolved: Resolved, identities: Mapping[Where, str], layout: type[Layout] = Layout
) -> tuple[Design, dict[str, Step]]:
    """A plan with all steps that could turn out to be needed, and by name those which are whatever is found."""
    design = build(resolved, identities, layout)
    needed = [name for asked in design.asked.values() for pairing in asked.pairings for name in pairing.steps]
    attacks, table = resolved.pipelines("attacks"), Table(design, {})
    needed += [name for asked in design.asked.values() for pairing in asked.pairings for name in table.ground(pairing)]
    first = {step.name: step for step in behind(design.steps, needed)}
    for asked in design.asked.values():
        for check in CHECKS.values():
            for attack in attacks.values():
                list(check.pairings(asked, attack, table))  # lays out its steps
    return design, first
