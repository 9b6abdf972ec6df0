"""Whether there is anything to steal: what the unlocked victim adds to the merge, for every scenario and merger."""

from __future__ import annotations

from collections.abc import Iterator

from redteam.evaluation.rows import Control
from redteam.evaluation.scoring import Table
from redteam.evaluation.statistics import combine
from redteam.evaluation.thresholds import THRESHOLDS


def gain_controls(table: Table) -> Iterator[Control]:
    """One row for each scenario and merger."""
    limit = THRESHOLDS.gain
    for scenario, merger in dict.fromkeys((where[0], where[2]) for where in table.design.grounds):
        wheres = [where for where in table.design.grounds if (where[0], where[2]) == (scenario, merger)]
        gains = [baselines.gain for where in wheres if (baselines := table.ground_baselines(where)) is not None]
        if not gains:
            told = f"the merges with {merger} that everything is measured against could not be computed"
            yield Control(
                control="gain", scenario=scenario, passed=False, status="error", limit=limit, explanation=told
            )
            continue
        gain = combine(gains)
        told = f"the unlocked victim adds {gain} to the merge with {merger}; lower bound at least {limit}"
        yield Control(
            control="gain", scenario=scenario, passed=gain.low >= limit, value=gain.low, limit=limit, explanation=told
        )
