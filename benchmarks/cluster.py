"""The scheduler and the store under the work of a thousand nodes: clock and nodes are simulated, all else is real.

Steps take simulated time, fail, hang, and are lost with their workers and nodes; their records are of real size and
lie in a real store. Half way the process that plans is killed, and another goes on from what is stored.

    python benchmarks/cluster.py [--nodes 1000] [--victims 20]
"""

from __future__ import annotations

import argparse
import contextlib
import heapq
import itertools
import math
import random
import tempfile
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from redteam.evaluation.packing import Packed
from redteam.evaluation.runner.scheduler import Scheduler
from redteam.evaluation.runner.store import Store
from redteam.evaluation.runner.workers import Ended
from redteam.evaluation.steps import Cost, Kind, Locked, Merged, Outcome, Record, Recovered, Scored, Step, Tuned

SLOTS = 8  # of a node
DEFENSES, ATTACKS, MERGERS = 25, 60, 2
SECONDS: dict[Kind, float] = {"alone": 600, "tune": 300, "lock": 120, "attack": 90, "merge": 30}  # medians, log-normal
FAILS, HANGS, CRASHES = 0.02, 0.001, 0.005  # of all computations
LASTS, RETURNS = 50 * 3600.0, 600.0  # seconds until a node is lost, on average, and until it is back


class Killed(Exception):
    """The process that plans is gone."""


@dataclass(eq=False)
class Job:
    """A step on a node, until it ends or is lost."""

    step: Step
    node: int
    begun: float


@dataclass
class Cluster:
    """Nodes that are lost now and then, in simulated time, as the scheduler's `Workers`."""

    store: Store
    nodes: int
    draw: random.Random
    kill_after: float = math.inf  # results
    now: float = 0.0
    jobs: int = 0
    spent: float = 0.0  # slot-seconds, lost ones included
    started: Counter[str] = field(default_factory=Counter)
    told: Counter[str] = field(default_factory=Counter)
    nodes_lost: int = 0

    def __post_init__(self) -> None:
        self._events: list[tuple[float, int, Callable[[], list[Ended]]]] = []
        self._order = itertools.count()
        self._on: dict[int, set[Job]] = {node: set() for node in range(self.nodes)}
        self._open = [node for node in range(self.nodes) for _ in range(SLOTS)]
        for node in range(self.nodes):
            self._at(self.draw.expovariate(1 / LASTS), lambda node=node: self._lose(node))

    @property
    def free(self) -> bool:
        """Whether a slot is open."""
        return bool(self._open)

    def resize(self, size: int) -> None:
        """Of no use here."""
        raise NotImplementedError

    def start(self, name: str, function: object, step: Step, *_: Any, seconds: float, memory: int = 0) -> None:
        """Puts a step into an open slot."""
        self.started[name] += 1
        job = Job(step, self._open.pop(), self.now)
        self._on[job.node].add(job)
        self.jobs += 1
        takes, chance = SECONDS[step.kind] * math.exp(self.draw.gauss(0, 1)), self.draw.random()
        if chance < HANGS or takes > seconds:
            self._at(self.now + seconds, lambda: self._leave(job, "timeout"))
        elif chance < HANGS + CRASHES:
            self._at(self.now + takes * self.draw.random(), lambda: self._leave(job, "died"))
        else:
            self._at(self.now + takes, lambda: self._leave(job, "done"))

    def wait(self, seconds: float = math.inf) -> list[Ended]:
        """Lets time pass until something ends."""
        if self.told["done"] >= self.kill_after:
            raise Killed
        while True:
            self.now, _, happens = heapq.heappop(self._events)
            if ended := happens():
                return ended

    def _at(self, when: float, happens: Callable[[], list[Ended]]) -> None:
        heapq.heappush(self._events, (when, next(self._order), happens))

    def _leave(self, job: Job, how: Any) -> list[Ended]:
        if job not in self._on[job.node]:  # it was lost with its node
            return []
        self._on[job.node].remove(job)
        self._open.append(job.node)
        return [self._tell(job, how)]

    def _lose(self, node: int) -> list[Ended]:
        self.nodes_lost += 1
        lost, self._on[node] = self._on[node], set()
        self._open = [other for other in self._open if other != node]
        self._at(self.now + RETURNS, lambda: self._return(node))
        return [self._tell(job, "died") for job in lost]

    def _return(self, node: int) -> list[Ended]:
        self._open.extend([node] * SLOTS)
        self._at(self.now + self.draw.expovariate(1 / LASTS), lambda: self._lose(node))
        return []

    def _tell(self, job: Job, how: Any) -> Ended:
        self.jobs -= 1
        self.told[how] += 1
        self.spent += self.now - job.begun
        if how != "done":
            return Ended(job.step.name, how)
        if fails(job.step):
            return Ended(job.step.name, how, Outcome("error", reason="it fails, wherever it is computed"))
        record = result(job.step)
        self.store.put(job.step, record)
        if job.step.makes:
            (self.store.root / "work" / job.step.name).mkdir(exist_ok=True)
        return Ended(job.step.name, how, Outcome("ok", record))


def fails(step: Step) -> bool:
    """Whether a step is one of those that fail each time."""
    return step.kind in ("attack", "merge") and random.Random(step.name).random() < FAILS


def result(step: Step) -> Record:
    """A record as large as a real one, the same each time."""
    bits = Packed(2000, bits=random.Random(step.name).randbytes(250).hex())
    tasks = dict.fromkeys(("a", "b", "c", "d"), bits)
    if step.kind == "alone":
        chances = dict.fromkeys(tasks, 0.1)
        return Scored("a", chances, tasks, tasks, chances, chances, {}, 1.0, seconds=60.0)
    if step.kind == "tune":
        return Tuned({"scale": 0.4}, [({"scale": 0.4}, 0.5)])
    if step.kind == "lock":
        return Locked(step.name, change=0.0, answers=list(range(500)), cost=Cost(1.0))
    if step.kind == "attack":
        return Recovered(step.name, 0.1, {"vo": 0.1}, 0.0, Cost(1.0))
    return Merged(tasks, {"b": 0.5}, list(range(500)), Cost(1.0))


def plan(victims: int) -> list[Step]:
    """Every defense against every attack under every merger, inputs first."""

    def step(kind: Kind, label: str, **inputs: Step) -> Step:
        names = {role: given.name for role, given in inputs.items()}
        return Step.of(kind, label, settings={"label": label}, inputs=names, makes=kind in ("lock", "attack"))

    steps: list[Step] = []
    for victim in range(victims):
        alone = step("alone", f"victim {victim}")
        tunes = [step("tune", f"{alone.label}, merger {merger}", alone=alone) for merger in range(MERGERS)]
        steps += [alone, *tunes]
        for defense in range(DEFENSES):
            steps.append(lock := step("lock", f"{alone.label}, defense {defense}", alone=alone))
            for attack in range(ATTACKS):
                steps.append(recovered := step("attack", f"{lock.label}, attack {attack}", lock=lock))
                steps += [
                    step("merge", f"{recovered.label}, merger {merger}", attack=recovered, tune=tune)
                    for merger, tune in enumerate(tunes)
                ]
    return steps


@dataclass
class Watched:
    """A scheduler's way through a plan.

    Attributes:
        ways: Step → each way in which it was settled: exactly one.
    """

    ways: dict[str, list[str]] = field(default_factory=dict)

    def settled(self, step: Step, outcome: Outcome) -> None:
        """What a scheduler tells of."""
        self.ways.setdefault(step.name, []).append(outcome.status)


def driven(steps: list[Step], cluster: Cluster) -> tuple[Watched, int, float]:
    """Runs all that is not stored: what was settled, how many were to do, and CPU seconds of this process."""
    seen, begun = Watched(), time.process_time()
    scheduler = Scheduler(cluster.store, pool=cluster, time_limit=None, settled=seen.settled)
    todo = scheduler.add(steps)
    with contextlib.suppress(Killed):
        scheduler.run()
    return seen, todo, time.process_time() - begun


def main() -> None:
    """Prints what scheduling cost, and ends with an error where anything was lost or done twice."""
    options = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    options.add_argument("--nodes", type=int, default=1000)
    options.add_argument("--victims", type=int, default=20, help=f"each has {DEFENSES * (1 + ATTACKS * (1 + MERGERS))}")
    asked = options.parse_args()
    steps = plan(asked.victims)
    draw = random.Random(0)
    with tempfile.TemporaryDirectory() as folder:
        store = Store(Path(folder))
        first = Cluster(store, asked.nodes, draw, kill_after=len(steps) // 2)
        _, _, before = driven(steps, first)
        stored = {path.name for path in Path(folder, "cells").iterdir()}
        second = Cluster(store, asked.nodes, draw)
        seen, todo, after = driven(steps, second)
        report(steps, first, second, seen, todo, before + after, stored, Path(folder))


def report(
    steps: list[Step],
    first: Cluster,
    second: Cluster,
    seen: Watched,
    todo: int,
    seconds: float,
    stored: set[str],
    folder: Path,
) -> None:
    """Prints figures, and checks that every step has one end and that nothing stored was computed again."""
    print(f"{len(steps)} steps on {first.nodes} nodes of {SLOTS} slots; {len(stored)} were stored at the kill")
    for name, cluster in (("until the kill", first), ("after it", second)):
        told, busy = cluster.told, cluster.spent / (cluster.now * cluster.nodes * SLOTS)
        print(
            f"{name}: {cluster.now / 3600:.2f} h, slots busy {busy:.0%}; {told['done']} ended, {told['died']} lost "
            f"with a worker or one of {cluster.nodes_lost} nodes, {told['timeout']} ran out of time"
        )
    count = first.told.total() + second.told.total()
    print(f"scheduling and storing: {seconds:.1f} CPU s, {seconds / count * 1e3:.2f} ms a computation")
    again = {f"{name}.json" for name in second.started} & stored
    again -= {f"{step.name}.json" for step in steps if step.makes}  # made anew where what it made was dropped
    ways = Counter(way for every in seen.ways.values() for way in every)
    print(f"ends: {', '.join(f'{count} {way}' for way, count in sorted(ways.items()))}; {todo} were left to the second")
    wrong = [name for name, every in seen.ways.items() if len(every) != 1]
    kept = {path.stem for path in (folder / "cells").iterdir()}
    missing = [step for step in steps if step.name not in kept and step.name not in seen.ways]
    if again or wrong or missing:
        raise SystemExit(f"{len(again)} computed again, {len(wrong)} with two ends, {len(missing)} with none")
    print("every step has one end; nothing that was stored was computed again")


if __name__ == "__main__":
    main()
