"""Between places and scheduler: what a place needs next is laid out as soon as what it waits for has ended."""

from __future__ import annotations

from collections import Counter
from typing import TYPE_CHECKING

from redteam.devices import CPU, CUDA
from redteam.errors import BadInput, PluginFault
from redteam.evaluation.progress import Progress
from redteam.evaluation.runner.scheduler import Scheduler, behind
from redteam.evaluation.scoring import Table
from redteam.evaluation.statistics import enough
from redteam.evaluation.summarize import provisional
from redteam.evaluation.thresholds import THRESHOLDS

if TYPE_CHECKING:
    from collections.abc import Iterable

    from redteam.evaluation.design import Design
    from redteam.evaluation.estimate import Estimate
    from redteam.evaluation.pairings import Pairing
    from redteam.evaluation.resolve import Resolved
    from redteam.evaluation.runner.shards import Shard
    from redteam.evaluation.runner.store import Store
    from redteam.evaluation.runner.workers import Workers
    from redteam.evaluation.steps import Outcome, Step
    from redteam.events import Observer


class Engine:
    """One run.

    Args:
        resolved: The plan.
        design: The plan laid out.
        store: Where records and checkpoints lie.
        pool: Processes; without one everything is computed in this one.
        observer: Told how it goes on.
        estimate: Of its cost.
        shard: Where other processes compute steps of it, too.
    """

    def __init__(
        self,
        resolved: Resolved,
        design: Design,
        store: Store,
        *,
        pool: Workers | None,
        observer: Observer,
        estimate: Estimate,
        shard: Shard | None = None,
    ) -> None:
        self.design, self.observer, self.estimate = design, observer, estimate
        self.scheduler = Scheduler(
            store,
            pool=pool,
            time_limit=resolved.plan.time_limit,
            settled=self._settled,
            room=None if estimate.budget is None else estimate.budget.room,
            memory=estimate.memory,
            shard=shard,
        )
        self.table = Table(design, self.scheduler.outcomes)
        everything = resolved.plan.controls == "all"
        attacks = resolved.pipelines("attacks")
        self.places = [Progress(asked, attacks, everything=everything) for asked in design.asked.values()]
        self._waiting: dict[str, list[tuple[int, Pairing]]] = {}
        self._left: dict[tuple[int, Pairing], set[str]] = {}
        self._ended: list[int] = []
        self._open = [0] * len(self.places)
        self.cached = 0  # steps that an earlier run had computed
        self._decided: set[int] = set()
        self._estimated = False

    @property
    def counts(self) -> dict[str, int]:
        """Kind of step → how many the run needed, cached ones included."""
        return dict(Counter(step.kind for step in self.scheduler.steps.values()))

    @property
    def device(self) -> str:
        """Where the steps were computed, cached ones included: `"cpu"`, or as in `"cuda (NVIDIA H200)"`."""
        models = sorted({outcome.gpu for outcome in self.scheduler.outcomes.values()} - {""})
        return f"{CUDA} ({', '.join(models)})" if models else CPU

    @property
    def unfitting(self) -> dict[str, int]:
        """What a step was → bytes with which the run could compute it, of those skipped for want of memory."""
        steps, outcomes = self.scheduler.steps, self.scheduler.outcomes
        return {steps[name].label: one.memory for name, one in outcomes.items() if one.memory}

    def run(self) -> None:
        """Computes until every verdict rests on all that it has to rest on."""
        for index in range(len(self.places)):
            self._advance(index)
            self._fill(index)
        self._tell_the_cost()
        self.scheduler.run()

    def _fill(self, index: int) -> None:
        """Has what is shown beside a verdict computed whenever there is nothing else to do; nothing waits for it."""
        place = self.places[index]
        names = [name for p in place.asked.beside for name in p.steps]
        self._add(names, len(self.places) + index, place.beside)

    def _add(self, names: Iterable[str], priority: int, why: str) -> None:
        """Takes in steps, and what they need, and tells of them."""
        before = len(self.scheduler.steps)
        todo = self.scheduler.add(behind(self.design.steps, names), priority=priority)
        added = len(self.scheduler.steps) - before
        self.cached += max(0, added - todo)
        if added:
            self.observer.planned(added, len(self.scheduler.steps), self.cached, why)

    def _tell_the_cost(self) -> None:
        if not self._estimated and (told := self.estimate.told(self.scheduler.steps, self.scheduler.outcomes)):
            self._estimated = True
            self.observer.estimated(told)

    def _advance(self, index: int) -> None:
        """Asks a place what it needs next, until there is something to wait for."""
        place = self.places[index]
        while True:
            pairings, why = place.more(self.table, idle=not self._open[index])
            if not pairings:
                break
            names = [name for p in pairings for name in (*self.table.ground(p), *p.steps)]
            for pairing in pairings:
                left = {n for n in (*pairing.steps, *self.table.ground(pairing)) if n not in self.scheduler.outcomes}
                self._left[index, pairing] = left
                for name in left:
                    self._waiting.setdefault(name, []).append((index, pairing))
            self._add(names, index, why)
            waiting = False
            for pairing in pairings:
                left = self._left[index, pairing]
                left.difference_update(self.scheduler.outcomes)
                self._open[index] += bool(left)
                waiting |= bool(left)
            if waiting:
                return
        if index not in self._decided and place.decision is not None and not place.decision.wanted:
            self._decided.add(index)
            self.observer.decided(provisional(self.table, place))

    def _settled(self, step: Step, outcome: Outcome) -> None:
        done, total = len(self.scheduler.outcomes), len(self.scheduler.steps)
        self.observer.settled(step.label, outcome.status, outcome.reason, done, total)
        if outcome.status in ("error", "timeout"):
            self._require_some_ground(outcome)
        elif step.kind == "merge":
            self._require_enough_items(step)
        elif step.kind == "alone":
            self._tell_the_cost()
        touched: dict[int, None] = {}
        for index, pairing in self._waiting.pop(step.name, ()):
            left = self._left[index, pairing]
            if step.name not in left:
                continue  # it was cached, and has only made its checkpoint anew
            left.remove(step.name)
            if not left:
                self._open[index] -= 1
                touched[index] = None
        for index in touched:
            self._advance(index)

    def _require_enough_items(self, step: Step) -> None:
        """Stops the run where so few test items can tell nothing: that is known as soon as the unlocked merges are.

        Raises:
            BadInput: With how many items there are, and how many it takes.
        """
        touched = {w[:2] for w, g in self.design.grounds.items() if step.name in (g.without, g.reference)}
        for place in touched:
            asked = [
                g for w, g in self.design.grounds.items() if w[:2] == place and g.reference in self.scheduler.steps
            ]
            wheres = [ground.where for ground in asked]
            found = [self.table.ground_baselines(where) for where in wheres]
            # A merger that gains too little is left out anyway, and one that can tell something is enough.
            gaining = [(where, b) for where, b in zip(wheres, found, strict=True) if b and b.gain[0] >= THRESHOLDS.gain]
            short = [(w, b, n) for w, b in gaining if b.items < (n := enough(THRESHOLDS.stolen / b.theft_of_all))]
            if None in found or not short or len(short) < len(gaining):
                continue
            where, baselines, needed = min(short, key=lambda one: one[2])
            raise BadInput(
                f"The victim's task {baselines.victim!r} of {where[0]} has {baselines.items} test items, "
                f"too few to tell a lock that falls from one that holds: with a gain of {baselines.gain[0]:.2f} by "
                f"{where[2]} it takes {needed}; bring more test items."
            )

    def _require_some_ground(self, outcome: Outcome) -> None:
        """Stops the run where nothing of a scenario can be measured: all else would fail alike.

        Raises:
            PluginFault: With the reason.
        """
        grounds: dict[tuple[str, int], list[bool]] = {}
        for ground in self.design.grounds.values():
            failed = any(
                (found := self.scheduler.outcomes.get(name)) is not None and found.status in ("error", "timeout")
                for name in ground
            )
            grounds.setdefault((ground.scenario, ground.seed), []).append(failed)
        for (scenario, seed), failures in grounds.items():
            if all(failures):
                raise PluginFault(
                    f"Nothing can be measured on {scenario} under seed {seed}, with any merger of the plan: "
                    f"{outcome.reason.rstrip('.')}."
                )
