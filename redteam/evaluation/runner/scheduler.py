"""Runs steps in topological order, in this process or in a pool that can lose a worker without losing the run.

A worker writes its step's record itself, as its last act, so that whatever was finished survives any kill. Steps can be
added while others run: what a verdict needs is known only once earlier figures are. (`graphlib.TopologicalSorter` takes
no node after the first one is handed out.)
"""

from __future__ import annotations

import heapq
import math
import time
import traceback
from collections import Counter
from collections.abc import Callable, Iterable, Mapping
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING

from redteam.devices import CPU, model_of, settle
from redteam.errors import IllegalGauge, Inapplicable, NotEnoughMemory, RedteamError
from redteam.evaluation.runner.shards import Shard
from redteam.evaluation.runner.store import Store
from redteam.evaluation.runner.workers import Ended, Workers
from redteam.evaluation.steps import Outcome, Step
from redteam.memory import Room, limited_to
from redteam.terminal import disarmed

if TYPE_CHECKING:
    from redteam.evaluation.steps import Record

INAPPLICABLE = "-inapplicable"
"""How names end under which a run's store keeps why a step does not apply."""
_LEAST = 300.0  # seconds that every step may take
_MANY = 30.0  # how many times as long as scoring base and experts
_LIVES = 3  # how often a step is started whose worker dies under it
_LOOK = 1.0  # seconds after which it is looked up what other shards have done
_GRACE = 60.0  # seconds for which shards keep what they have merged, since others may be a little behind or ahead


class Scheduler:
    """All steps of a run, and how each of them ended.

    Args:
        store: Where records and checkpoints lie.
        pool: Processes; without one it computes in this one, without time limits, for debuggers.
        time_limit: Seconds after which a step is ended; `None` for 300, or 30 times what scoring base and experts took.
        settled: Called with every step that was computed or failed, and its outcome; may call `add`.
        room: What memory a step may take; `None` for whatever there is.
        memory: What a step takes at least, in bytes, where that is known.
        shard: Where other processes compute steps of the same run.
    """

    def __init__(
        self,
        store: Store,
        *,
        pool: Workers | None,
        time_limit: float | None,
        settled: Callable[[Step, Outcome], None],
        room: Room | None = None,
        memory: Callable[[Step], int] = lambda _: 0,
        shard: Shard | None = None,
    ) -> None:
        self.store, self.pool, self.time_limit, self.settled, self.room = store, pool, time_limit, settled, room
        self.memory, self.shard = memory, shard
        self.steps: dict[str, Step] = {}
        self.outcomes: dict[str, Outcome] = {}
        self._failed: dict[str, Outcome] = {}
        self._ready: list[tuple[bool, int, int, str]] = []
        self._blocked: dict[str, set[str]] = {}
        self._waiting: dict[str, set[str]] = {}
        self._open: set[str] = set()
        self._rank: dict[str, tuple[bool, int, int]] = {}
        self._lives: Counter[str] = Counter()
        self._elsewhere: list[str] = []
        self._merged: dict[str, float] = {}
        self._scoring = 0.0  # seconds that scoring base and experts took at most

    @property
    def pending(self) -> int:
        """How many steps have not ended."""
        return len(self._open)

    @property
    def overtaken(self) -> bool:
        """Whether another shard has computed what failed in this one."""
        return self.shard is not None and any(
            self.store.get(name) for name in self._failed if self.outcomes[name].status != "ok"
        )

    def add(self, steps: Iterable[Step], *, priority: int = 0) -> int:
        """Takes in steps, inputs first; those with a record, or that were found not to apply, are settled already.

        Steps that failed are not tried again, but by the next run. Where a step's checkpoint is needed and no longer
        there, it is made anew.

        Args:
            steps: Every one of them after its inputs.
            priority: Lower ones run earlier, among those that are ready.

        Returns:
            How many of them have to be computed.
        """
        new = [step for step in steps if step.name not in self.steps]
        self.steps.update((step.name, step) for step in new)
        missing = []
        for step in new:
            held = self.store.get(step.name)
            if held is not None:
                self._keep(step, held)
            elif reason := self.store.text(_inapplicable(step)):
                self._failed[step.name] = Outcome("skipped", reason=reason, inapplicable=True)
                self.outcomes.setdefault(step.name, self._failed[step.name])
            else:
                missing.append(step)
        doomed = set(self._failed)
        for step in missing:
            if not doomed.isdisjoint(step.inputs.values()):
                doomed.add(step.name)
        again = self._vanished(step for step in missing if step.name not in doomed)
        todo = [*(self.steps[name] for name in again), *missing]
        self._take_in(todo, priority)
        return len(todo)

    def run(self) -> None:
        """Computes what was added, and what is added on the way, until nothing is left."""
        while True:
            while (self.pool is None or self.pool.free) and (name := self._next()) is not None:
                self._start(name)
            if not self._elsewhere and (self.pool is None or not self.pool.jobs):
                return
            for ended in self._wait():
                self._lives[ended.job] += 1
                if ended.how == "died" and self._lives[ended.job] < _LIVES:
                    self._start(ended.job)
                else:
                    self._end(ended.job, _outcome(ended, self._limit(ended.job)))

    def _take_in(self, steps: Iterable[Step], priority: int) -> None:
        steps = list(steps)
        for step in steps:
            other = self.shard is not None and not self.shard.mine(step.name)
            self._rank[step.name] = (other, priority, len(self._rank))
            self._open.add(step.name)
        for step in steps:
            self._enter(step)

    def _start(self, name: str) -> None:
        step = self.steps[name]
        arguments = (step, self.store.root, self.room)
        if self.pool is None:
            self._end(name, compute(*arguments))
        else:
            self.pool.start(name, compute, *arguments, seconds=self._limit(name), memory=self.memory(step))

    def _wait(self) -> list[Ended]:
        """What has ended here; what others have on their hands is looked up again after a while."""
        if self.pool is not None and self.shard is None:
            return self.pool.wait()
        ended: list[Ended] = []
        if self.pool is not None and self.pool.jobs:
            ended = self.pool.wait(_LOOK)
        else:
            time.sleep(_LOOK)
        for name in self._elsewhere:
            heapq.heappush(self._ready, (*self._rank[name], name))
        self._elsewhere.clear()
        for name in [name for name, since in self._merged.items() if time.monotonic() - since > _GRACE]:
            del self._merged[name]
            if not self._waiting.get(name):
                self.store.drop_artefact(name)
        return ended

    def _end(self, name: str, outcome: Outcome) -> None:
        """Takes in how a step ended that was started here."""
        if self.shard is not None:
            if outcome.status == "error" and self._lives[name] < _LIVES and self._bring_back(name):
                return
            if outcome.status == "ok":
                self.shard.give_back(name)
            else:
                self.shard.fail(name, outcome)
        self._settle(name, outcome)

    def _bring_back(self, name: str) -> bool:
        """Where another shard has dropped what a step reads, has it made anew first; whether that is so."""
        step = self.steps[name]
        gone = [n for n in step.inputs.values() if self.steps[n].makes and not self.store.has_artefact(n)]
        if gone and self.shard is not None:
            self._lives[name] += 1
            self.shard.give_back(name)
            self._take_in([self.steps[need] for need in self._vanished([step])], self._rank[name][1])
            self._enter(step)
        return bool(gone)

    def _found(self, name: str) -> Outcome | None:
        """How a step ended elsewhere, if it did."""
        if self.shard is None:
            return None
        held = self.store.get(name)
        if held is not None and (name not in self.outcomes or self.store.has_artefact(name)):
            return held
        return self.shard.failed(name)

    def _is_mine(self, name: str) -> bool:
        """Whether a step that is ready is to be started here; if not, it is settled, put off or entered anew."""
        if self.shard is None:
            return True
        found = self._found(name)
        if found is None:
            if not self.shard.take(name):
                self._elsewhere.append(name)
                return False
            found = self._found(name)  # it may have ended just before
            if found is None:
                return not self._bring_back(name)
            if found.status == "ok":
                self.shard.give_back(name)
        self._settle(name, found)
        return False

    def _limit(self, name: str) -> float:
        """Seconds that a step may take: models of any size are scored, and nothing else is waited for without end."""
        if self.time_limit is not None:
            return self.time_limit
        return math.inf if self.steps[name].kind == "alone" else max(_LEAST, _MANY * self._scoring)

    def _vanished(self, missing: Iterable[Step]) -> list[str]:
        """Steps with a record whose checkpoint is gone and is needed once more, inputs first."""
        again: dict[str, None] = {}
        pending = [name for step in missing for name in step.inputs.values()]
        while pending:
            name = pending.pop()
            outcome = self.outcomes.get(name)
            if outcome is None or outcome.status != "ok" or name in again or name in self._open:
                continue
            if self.steps[name].makes and not self.store.has_artefact(name):
                again[name] = None
                pending.extend(self.steps[name].inputs.values())
        order = {name: index for index, name in enumerate(self.steps)}
        return sorted(again, key=order.__getitem__)

    def _enter(self, step: Step) -> None:
        blocked = {name for name in step.inputs.values() if name in self._open}
        for name in step.inputs.values():
            self._waiting.setdefault(name, set()).add(step.name)
        if blocked:
            self._blocked[step.name] = blocked
        else:
            heapq.heappush(self._ready, (*self._rank[step.name], step.name))

    def _next(self) -> str | None:
        """The first step that can run. Steps whose input failed are settled on the way."""
        while self._ready:
            *_, name = heapq.heappop(self._ready)
            failed = next((need for need in self.steps[name].inputs.values() if need in self._failed), None)
            if failed is None:
                if self._is_mine(name):
                    return name
                continue
            cause = self._failed[failed]
            reason = cause.reason if cause.status == "skipped" else f"{self.steps[failed].label}: {cause.reason}"
            self._settle(name, Outcome("skipped", reason=reason, inapplicable=cause.inapplicable))
        return None

    def _keep(self, step: Step, outcome: Outcome) -> None:
        self.outcomes[step.name] = outcome
        if step.kind == "alone":
            self._scoring = max(self._scoring, outcome.record.seconds)

    def _settle(self, name: str, outcome: Outcome) -> None:
        self._open.discard(name)
        if outcome.status == "ok":
            # The first writer's record, so that another run's figures stay.
            self._keep(self.steps[name], self.store.get(name) or outcome)
        else:
            # A step that was computed before, and now failed to make its checkpoint anew, keeps its record.
            self._failed[name] = outcome
            self.outcomes.setdefault(name, outcome)
        for need in self.steps[name].inputs.values():
            self._waiting.get(need, set()).discard(name)
            self._drop(need)
        for other in self._waiting.get(name, ()):
            blocked = self._blocked.get(other)
            if blocked is not None:
                blocked.discard(name)
                if not blocked:
                    del self._blocked[other]
                    heapq.heappush(self._ready, (*self._rank[other], other))
        self.settled(self.steps[name], outcome)

    def _drop(self, name: str) -> None:
        """Removes what an attack returned as soon as it is merged; locks stay, since further attacks may need them."""
        if self.steps[name].kind == "attack" and not self._waiting.get(name):
            if self.shard is None:
                self.store.drop_artefact(name)
            else:
                self._merged[name] = time.monotonic()


def compute(step: Step, root: Path, room: Room | None = None) -> Outcome:
    """Computes one step and stores its record; a plugin's failure is an outcome, not an exception."""
    from redteam.evaluation.computations import run_step

    store, device = Store(root), step.settings.get("device", CPU)
    try:
        settle(device)  # begins with it, where nothing has: what its driver takes is none of the step's memory
        with limited_to(room):
            record: Record = run_step(step, store)
        gpu = model_of(device)
        store.put(step, record, gpu)
    except NotEnoughMemory as error:
        return Outcome("skipped", reason=str(error), memory=error.total)
    except RedteamError as error:
        no_such_lock = isinstance(error, IllegalGauge) and (step.kind == "attack" or "plant" in step.settings)
        if no_such_lock or isinstance(error, Inapplicable):  # as it will be again, under this name
            with suppress(OSError, RedteamError):  # where it cannot be written it is found anew
                store.put_text(_inapplicable(step), str(error))
            return Outcome("skipped", reason=str(error), inapplicable=True)
        return Outcome("error", reason=disarmed(str(error)))
    except (Exception, SystemExit) as error:
        last = traceback.extract_tb(error.__traceback__)[-1]
        where = f"{Path(last.filename).name}, line {last.lineno}"
        reason = f"{type(error).__name__}: {disarmed(' '.join(str(error).split()))[:300]} ({where})"
        return Outcome("error", reason=reason, traceback=traceback.format_exc())
    return Outcome("ok", record, gpu=gpu)


def _inapplicable(step: Step) -> str:
    """Under which a run's store keeps why a step does not apply."""
    return f"{step.name}{INAPPLICABLE}"


def behind(steps: Mapping[str, Step], names: Iterable[str]) -> list[Step]:
    """The steps of these names and all that they need, inputs first."""
    found: dict[str, Step] = {}
    pending = [(name, False) for name in reversed(list(names))]
    while pending:
        name, entered = pending.pop()
        if name in found:
            continue
        inputs = [need for need in steps[name].inputs.values() if need not in found]
        if entered or not inputs:
            found[name] = steps[name]
        else:
            pending.append((name, True))
            pending.extend((need, False) for need in reversed(inputs))
    return list(found.values())


def _outcome(ended: Ended, time_limit: float) -> Outcome:
    if ended.how == "done":
        return ended.value  # type: ignore[no-any-return]
    if ended.how == "timeout":
        return Outcome("timeout", reason=f"ended after {time_limit:g} s")
    code = "" if ended.exit_code is None else f" (exit code {ended.exit_code})"
    return Outcome("error", reason=f"its process died {_LIVES} times{code}")
