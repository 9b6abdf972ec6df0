"""How long a run will take, said as soon as its first computation is measured, and what memory it keeps within."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from redteam.evaluation.footprint import PROGRAM, WORKER, Budget, Footprint
from redteam.evaluation.steps import Outcome, Step
from redteam.memory import shown


@dataclass(frozen=True)
class Estimate:
    """What is known of a run's cost before it is measured.

    Attributes:
        footprints: Digest of a scenario → its size.
        everything: All steps that could turn out to be needed, those of gauntlets and controls among them, by name.
        workers: Processes that compute.
        budget: What the run keeps within; `None` for whatever it needs.
    """

    footprints: Mapping[str, Footprint]
    everything: Mapping[str, Step]
    workers: int
    budget: Budget | None

    def told(self, steps: Mapping[str, Step], outcomes: Mapping[str, Outcome]) -> str:
        """A sentence on time and memory; empty until base and experts were scored everywhere, or where nothing is left.

        Args:
            steps: What is planned so far.
            outcomes: What has ended of it.
        """
        each: dict[str, dict[str, float]] = {}
        for name, step in steps.items():
            if step.kind == "alone":
                outcome = outcomes.get(name)
                if outcome is None or outcome.status != "ok":
                    return ""
                scenario = str(step.settings["scenario"])
                each[scenario] = self.footprints[scenario].measured(outcome.record)
        left = [step for name, step in steps.items() if name not in outcomes]
        further = [step for name, step in self.everything.items() if name not in steps]
        if not left:
            return ""
        now, later = (
            sum(each[str(step.settings["scenario"])][step.kind] for step in some) / self.workers
            for some in (left, further)
        )
        merge = max(seconds["merge"] for seconds in each.values())
        return (
            f"{len(left)} computations take about {span(now)} on {_processes(self.workers)}, and up to "
            f"{span(now + later)} with the {len(further)} that may turn out to be needed. That is for scores, "
            f"{span(merge)} for a merge's; merging, fits and training come on top.{self._memory()}"
        )

    def memory(self, step: Step) -> int:
        """Bytes that a step takes at least, its process included; 0 where the size of its scenario is not known."""
        if self.budget is not None:
            return WORKER + self.budget.room.own
        held = self.footprints.get(str(step.settings.get("scenario")))
        return 0 if held is None else WORKER + held.least

    def _memory(self) -> str:
        if self.budget is None:
            most = max(size.least for size in self.footprints.values())
            return f" Memory: {shown(PROGRAM + self.workers * (WORKER + most))} or more."
        return f" Memory: {shown(self.budget.room.own)} for each computation; what needs more is skipped."


def span(seconds: float) -> str:
    """`"40 s"`, `"12 min"`, `"3.5 h"`."""
    if seconds < 90:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 5400 else f"{seconds / 3600:.1f} h"


def _processes(count: int) -> str:
    return "1 process" if count == 1 else f"{count} processes"
