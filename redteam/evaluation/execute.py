"""Runs cells: in a pool of processes that can lose a worker without losing the run, or in this process.

A worker writes its cell's record itself, as its last act, so that whatever was finished survives any kill.
"""

from __future__ import annotations

import traceback
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from redteam.errors import IllegalGauge, Inapplicable, RedteamError
from redteam.evaluation.nodes import Node
from redteam.evaluation.pool import Ended, Pool
from redteam.evaluation.store import Store

_LIVES = 3  # how often a cell is started whose worker dies under it

Outcome = dict[str, Any]
Watcher = Callable[[Node, Outcome], None]


@dataclass(frozen=True)
class Todo:
    """What is left to compute.

    Attributes:
        missing: Cells without a record, in order.
        again: Cells with a record whose checkpoint is gone and is needed once more.
    """

    missing: tuple[str, ...]
    again: tuple[str, ...]


def todo(nodes: Mapping[str, Node], done: Mapping[str, Outcome], store: Store) -> Todo:
    """What has to run, given the records that are there."""
    missing = [name for name in nodes if name not in done]
    again: dict[str, None] = {}
    pending = list(missing)
    while pending:
        for name in nodes[pending.pop()].inputs.values():
            there = name in done and done[name]["status"] == "ok"
            if nodes[name].makes and there and name not in again and not store.has_artefact(name):
                again[name] = None
                pending.append(name)
    return Todo(tuple(missing), tuple(again))


def execute(
    nodes: Mapping[str, Node],
    done: dict[str, Outcome],
    store: Store,
    *,
    workers: int,
    time_limit: float,
    watch: Watcher,
    keep: frozenset[str] = frozenset(),
) -> None:
    """Computes what is missing and enters every outcome in `done`.

    Args:
        nodes: All cells, inputs first.
        done: Name → `{"status": "ok", "result": …}` as far as known; filled in. Failed cells become `"error"` or
            `"timeout"` with a reason, what waited for them `"skipped"`, as are attacks that say that they are not for
            such a checkpoint; none of these is stored, so that the same command tries again.
        store: Where records and checkpoints lie.
        workers: Processes; 0 computes in this one, without time limits, for debuggers.
        time_limit: Seconds after which a cell is ended.
        watch: Told of every outcome.
        keep: Cells whose checkpoints stay although nothing here waits for them.
    """
    work = todo(nodes, done, store)
    run = _Run(nodes, done, store, set(work.missing) | set(work.again), watch, keep)
    if not run.open:
        return
    if workers == 0:
        while (name := run.next()) is not None:
            run.settle(name, compute(nodes[name], store.root))
        return
    lives: Counter[str] = Counter()
    with Pool(workers) as pool:
        while True:
            while pool.free and (name := run.next()) is not None:
                pool.start(name, compute, nodes[name], store.root, seconds=time_limit)
            if not pool.jobs:
                return
            for ended in pool.wait():
                lives[ended.job] += 1
                if ended.how == "died" and lives[ended.job] < _LIVES:
                    pool.start(ended.job, compute, nodes[ended.job], store.root, seconds=time_limit)
                else:
                    run.settle(ended.job, _outcome(ended, time_limit))


def compute(node: Node, root: Path) -> Outcome:
    """Computes one cell and stores its record; a plugin's failure is an outcome, not an exception."""
    from redteam.evaluation.stages import run_stage

    store = Store(root)
    try:
        result = run_stage(node, store)
        record = {"status": "ok", "kind": node.kind, "label": node.label, "result": result}
        store.put(node.name, record)
    except Inapplicable as error:
        return {"status": "skipped", "reason": str(error), "inapplicable": True}
    except RedteamError as error:
        if isinstance(error, IllegalGauge) and "plant" in node.settings:  # no such lock exists here, so none to undo
            return {"status": "skipped", "reason": str(error), "inapplicable": True}
        return {"status": "error", "reason": str(error)}
    except (Exception, SystemExit) as error:
        last = traceback.extract_tb(error.__traceback__)[-1]
        where = f"{Path(last.filename).name}, line {last.lineno}"
        return {
            "status": "error",
            "reason": f"{type(error).__name__}: {' '.join(str(error).split())[:300]} ({where})",
            "traceback": traceback.format_exc(),
        }
    return record


class _Run:
    """Which cells are waiting, ready or settled, and which checkpoints somebody still waits for."""

    def __init__(
        self,
        nodes: Mapping[str, Node],
        done: dict[str, Outcome],
        store: Store,
        names: set[str],
        watch: Watcher,
        keep: frozenset[str] = frozenset(),
    ) -> None:
        self.nodes, self.done, self.store, self.watch, self.keep = nodes, done, store, watch, keep
        self.open = [name for name in nodes if name in names]
        self.unsettled = set(names)
        self.failed = {name: done[name] for name in nodes if name in done and done[name]["status"] != "ok"}
        self.waiting: dict[str, int] = {}
        for name in self.open:
            for need in nodes[name].inputs.values():
                self.waiting[need] = self.waiting.get(need, 0) + 1

    def next(self) -> str | None:
        """The first cell whose inputs are settled. Cells whose input failed are settled on the way."""
        for name in list(self.open):
            inputs = self.nodes[name].inputs.values()
            if any(need in self.unsettled for need in inputs):
                continue
            self.open.remove(name)
            causes = [need for need in inputs if need in self.failed]
            if not causes:
                return name
            cause = self.failed[causes[0]]
            reason = cause["reason"]
            if cause["status"] != "skipped":
                reason = f"{self.nodes[causes[0]].label}: {reason}"
            self.settle(name, {"status": "skipped", "reason": reason, "inapplicable": cause.get("inapplicable", False)})
        return None

    def settle(self, name: str, outcome: Outcome) -> None:
        """Enters an outcome and drops the checkpoints that nothing waits for any more."""
        self.unsettled.discard(name)
        if outcome["status"] == "ok":
            # The first writer's record, so that another run's figures stay.
            self.done[name] = self.store.get(name) or outcome
        else:
            # A cell that was computed before, and now failed to make its checkpoint anew, keeps its record.
            self.failed[name] = outcome
            self.done.setdefault(name, outcome)
        for need in self.nodes[name].inputs.values():
            self.waiting[need] -= 1
            if self.waiting[need] == 0:
                self._drop(need)
        if not self.waiting.get(name):
            self._drop(name)
        self.watch(self.nodes[name], self.failed.get(name, self.done[name]))

    def _drop(self, name: str) -> None:
        if self.nodes[name].makes and name not in self.keep:
            self.store.drop_artefact(name)


def _outcome(ended: Ended, time_limit: float) -> Outcome:
    if ended.how == "done":
        return ended.value  # type: ignore[no-any-return]
    if ended.how == "timeout":
        return {"status": "timeout", "reason": f"ended after {time_limit:g} s"}
    return {"status": "error", "reason": f"its process died {_LIVES} times (exit code {ended.exit_code})"}
