"""Whether there is anything to steal: what the unlocked victim adds to the merge, for every scenario and merger."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Any

from redteam.evaluation.baselines import Baselines
from redteam.evaluation.design import Asked
from redteam.evaluation.resolve import Pipeline
from redteam.evaluation.rows import Control
from redteam.evaluation.scoring import Table
from redteam.evaluation.statistics import Interval, Vector, combine
from redteam.evaluation.thresholds import THRESHOLDS


def gains(table: Table, asked: Asked) -> dict[str, Interval]:
    """Merger → what the unlocked victim adds to the merge on its own task, over seeds.

    Of those that verdicts count, and that had their turn.
    """
    return _over_seeds(table, asked, lambda baselines: baselines.gain)


def copies(table: Table, asked: Asked) -> dict[str, Interval]:
    """Merger → what theft would count of the victim as it is, with nothing merged; see `Baselines.copied`."""
    return _over_seeds(table, asked, lambda baselines: baselines.copied)


def _over_seeds(table: Table, asked: Asked, figure: Callable[[Baselines], Vector]) -> dict[str, Interval]:
    found: dict[str, dict[int, Vector]] = {}
    turns = (group[0] for case in asked.cases if not case.merger for group in case.groups)
    for pairing in (*asked.pairings, *turns):
        baselines = None if pairing.whole else table.baselines(pairing)
        if baselines is not None:
            found.setdefault(pairing.merger, {})[pairing.seed] = figure(baselines)
    return {merger: combine(list(vectors.values())) for merger, vectors in found.items()}


def left_out(table: Table, asked: Asked) -> tuple[str, ...]:
    """Mergers whose unlocked merge is no measure of theft.

    It gains too little; or, of mergers that take turns, it keeps so little of the companions that the victim's copy
    would count as theft: under such a merger whoever merges nothing and uses the locked model would have broken it.
    Those that everything is merged with are the plan's own yardstick; of them this is said, and they count.
    """
    copied, yardsticks = copies(table, asked), asked.yardsticks
    return tuple(
        merger
        for merger, gain in gains(table, asked).items()
        if gain.low < THRESHOLDS.gain or (merger not in yardsticks and copied[merger].mean >= THRESHOLDS.stolen)
    )


def telling(table: Table, asked: Asked) -> dict[int, tuple[Pipeline, ...]]:
    """Seed → the mergers that controls can be merged with: those that gain enough, or all where none does."""
    useless = left_out(table, asked)
    allowed = {
        seed: tuple(m for m in layout.mergers(asked.threat) if not m.whole) for seed, layout in asked.layouts.items()
    }
    return {
        seed: tuple(merger for merger in mergers if merger.text not in useless) or mergers
        for seed, mergers in allowed.items()
    }


def gain_controls(table: Table) -> Iterator[Control]:
    """One row for each scenario and merger that had its turn."""
    limit = THRESHOLDS.gain
    for scenario, merger in dict.fromkeys((where[0], where[2]) for where in table.design.grounds):
        wheres = [where for where in table.design.grounds if (where[0], where[2]) == (scenario, merger)]
        if not any(name in table.outcomes for where in wheres for name in table.design.grounds[where].own):
            continue
        found = [baselines.gain for where in wheres if (baselines := table.ground_baselines(where)) is not None]
        if not found:
            yield _unmeasured(table, scenario, merger, wheres)
            continue
        gain = combine(found)
        told = f"the unlocked victim adds {gain} to the merge with {merger}; lower bound at least {limit}"
        yield Control(
            control="gain", scenario=scenario, passed=gain.low >= limit, value=gain.low, limit=limit, explanation=told
        )


def _unmeasured(table: Table, scenario: str, merger: str, wheres: Sequence[tuple[str, int, str]]) -> Control:
    """The row of a merger whose merges failed, or that is not for so many experts."""
    outcomes = [table.outcomes.get(name) for where in wheres for name in table.design.grounds[where].own]
    failed = [outcome for outcome in outcomes if outcome is not None and outcome.status != "ok"]
    told: dict[str, Any] = {
        "status": "error",
        "explanation": f"the merges with {merger} that everything is measured against could not be computed",
    }
    if failed and all(outcome.inapplicable for outcome in failed):
        told = {"status": "skipped", "explanation": f"{merger} is not for this scenario: {failed[0].reason}"}
    return Control(control="gain", scenario=scenario, passed=False, limit=THRESHOLDS.gain, **told)
