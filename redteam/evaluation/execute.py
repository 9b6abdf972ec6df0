"""Runs cells: in a pool of processes that can lose a worker without losing the run, or in this process.

A worker writes its cell's record itself, as its last act, so that whatever was finished survives any kill.
"""

from __future__ import annotations

import concurrent.futures
import multiprocessing
import os
import traceback
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from redteam.errors import RedteamError
from redteam.evaluation.nodes import Node
from redteam.evaluation.store import Store

_LIVES = 3  # how often a cell is started whose worker dies under it
_THREADS = ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS")

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
            if nodes[name].makes and name in done and name not in again and not store.has_artefact(name):
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
) -> None:
    """Computes what is missing and enters every outcome in `done`.

    Args:
        nodes: All cells, inputs first.
        done: Name → `{"status": "ok", "result": …}` as far as known; filled in. Failed cells become `"error"` or
            `"timeout"` with a reason, what waited for them `"skipped"`; none of these is stored, so that the same
            command tries again.
        store: Where records and checkpoints lie.
        workers: Processes; 0 computes in this one, without time limits, for debuggers.
        time_limit: Seconds after which a cell is ended.
        watch: Told of every outcome.
    """
    work = todo(nodes, done, store)
    run = _Run(nodes, done, store, set(work.missing) | set(work.again), watch)
    if not run.open:
        return
    if workers == 0:
        while (name := run.next()) is not None:
            run.settle(name, compute(nodes[name], store.root))
        return
    with _pool(workers) as pool:
        running: dict[concurrent.futures.Future[Outcome], str] = {}
        lives: dict[str, int] = {}

        def start(name: str) -> None:
            lives[name] = lives.get(name, 0) + 1
            running[pool.schedule(compute, args=[nodes[name], store.root], timeout=time_limit)] = name

        while True:
            while len(running) < 2 * workers and (name := run.next()) is not None:
                start(name)
            if not running:
                return
            finished, _ = concurrent.futures.wait(running, return_when=concurrent.futures.FIRST_COMPLETED)
            for future in finished:
                name = running.pop(future)
                outcome = _outcome(future, time_limit)
                if outcome["status"] == "died" and lives[name] < _LIVES:
                    start(name)
                    continue
                run.settle(name, {**outcome, "status": "error"} if outcome["status"] == "died" else outcome)


def compute(node: Node, root: Path) -> Outcome:
    """Computes one cell and stores its record; a plugin's failure is an outcome, not an exception."""
    from redteam.evaluation.stages import run_stage

    store = Store(root)
    try:
        result = run_stage(node, store)
        record = {"status": "ok", "kind": node.kind, "label": node.label, "result": result}
        store.put(node.name, record)
    except RedteamError as error:
        return {"status": "error", "reason": str(error)}
    except Exception as error:
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
        self, nodes: Mapping[str, Node], done: dict[str, Outcome], store: Store, names: set[str], watch: Watcher
    ) -> None:
        self.nodes, self.done, self.store, self.watch = nodes, done, store, watch
        self.open = [name for name in nodes if name in names]
        self.unsettled = set(names)
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
            failed = [need for need in inputs if self.done[need]["status"] != "ok"]
            if not failed:
                return name
            cause = self.done[failed[0]]
            reason = (
                cause["reason"] if cause["status"] == "skipped" else f"{self.nodes[failed[0]].label}: {cause['reason']}"
            )
            self.settle(name, {"status": "skipped", "reason": reason})
            return self.next()
        return None

    def settle(self, name: str, outcome: Outcome) -> None:
        """Enters an outcome and drops the checkpoints that nothing waits for any more."""
        self.unsettled.discard(name)
        known = self.store.get(name) if outcome["status"] == "ok" else None
        self.done[name] = known or outcome  # the first writer's record, so that another run's figures stay
        for need in self.nodes[name].inputs.values():
            self.waiting[need] -= 1
            if self.waiting[need] == 0 and self.nodes[need].makes:
                self.store.drop_artefact(need)
        if self.nodes[name].makes and not self.waiting.get(name):
            self.store.drop_artefact(name)
        self.watch(self.nodes[name], self.done[name])


def _outcome(future: concurrent.futures.Future[Outcome], time_limit: float) -> Outcome:
    from pebble import ProcessExpired

    try:
        return future.result()
    except concurrent.futures.TimeoutError:
        return {"status": "timeout", "reason": f"ended after {time_limit:g} s"}
    except ProcessExpired as error:
        return {"status": "died", "reason": f"its process died {_LIVES} times (exit code {error.exitcode})"}


@contextmanager
def _pool(workers: int) -> Iterator[Any]:
    """A pool whose workers are forked from a server that has torch loaded and one thread to compute with."""
    from pebble import ProcessPool

    context = multiprocessing.get_context(
        "forkserver" if "forkserver" in multiprocessing.get_all_start_methods() else "spawn"
    )
    if context.get_start_method() == "forkserver":
        context.set_forkserver_preload(["redteam.evaluation.stages"])
    before = {name: os.environ.get(name) for name in _THREADS}
    os.environ.update(dict.fromkeys(_THREADS, "1"))  # children inherit it, and read it when they first load torch
    pool = ProcessPool(max_workers=workers, context=context)
    try:
        yield pool
        pool.close()
        pool.join()
    except BaseException:
        pool.stop()
        pool.join()
        raise
    finally:
        for name, value in before.items():
            if value is None:
                del os.environ[name]
            else:
                os.environ[name] = value
