"""Processes that take one job at a time and may be killed at any moment: a lost worker costs its job and nothing else.

Every worker has a pipe of its own and no two share a lock, so that a worker which dies holds up no other. A worker
whose main process is gone leaves at once. Library pools were tried: with pebble an idle worker's death, or a killed
holder of its lock, stalled all others for up to a minute; loky and joblib cannot end one hung job; and a process per
step would load the scenario anew each time.
"""

from __future__ import annotations

import importlib
import multiprocessing
import multiprocessing.connection
import multiprocessing.forkserver as forkserver
import multiprocessing.resource_tracker as resource_tracker
import os
import signal
import threading
import time
from collections import Counter, deque
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from types import TracebackType
from typing import Any

from redteam.errors import RedteamError
from redteam.evaluation.runner.workers import Ended, one_thread

_PRELOAD = ("redteam.evaluation.computations", "transformers.modeling_utils")
_STILLBORN = 5  # so many workers in a row that end by themselves before they are ready: the next would too
_KILLED = 50  # so many that are killed before they are: says nothing of the next, but there must be an end
_PATIENCE = 5.0  # seconds that an idle worker gets to leave by itself


@dataclass(frozen=True)
class _Job:
    name: str
    call: tuple[Callable[..., Any], tuple[Any, ...]]
    seconds: float


@dataclass(eq=False)
class _Worker:
    process: Any
    pipe: multiprocessing.connection.Connection = field(repr=False)
    ready: bool = False
    job: _Job | None = None
    deadline: float = float("inf")

    def kill(self) -> int | None:
        """Ends it and frees what it held; its exit code."""
        self.process.kill()
        self.process.join()
        code: int | None = self.process.exitcode
        self.process.close()
        self.pipe.close()
        return code


class Pool:
    """Workers with torch and transformers loaded and one thread each, started as they are needed.

    Args:
        size: How many at most.
        soon: Whether there will be work, so that what they are forked from is started at once.
    """

    def __init__(self, size: int, *, soon: bool = False) -> None:
        self._size = size
        self._queue: deque[_Job] = deque()
        self._workers: list[_Worker] = []
        self._stillborn: Counter[bool] = Counter()  # in a row: killed, or by themselves
        kinds = multiprocessing.get_all_start_methods()
        self._context = multiprocessing.get_context("forkserver" if "forkserver" in kinds else "spawn")
        if "forkserver" in kinds:
            self._context.set_forkserver_preload(list(_PRELOAD))
        if "forkserver" in kinds and soon:
            with _as_children_inherit():
                forkserver.ensure_running()  # it loads torch while the plan is read; workers are forked from it

    @property
    def jobs(self) -> int:
        return len(self._queue) + sum(worker.job is not None for worker in self._workers)

    @property
    def free(self) -> bool:
        return self.jobs < self._size

    def resize(self, size: int) -> None:
        """Sets how many workers there may be at most, while none has a job; what is too many is ended."""
        self._size = size
        while len(self._workers) > size:
            self._dismiss(self._workers[-1])

    def start(self, name: str, function: Callable[..., Any], *arguments: Any, seconds: float, memory: int = 0) -> None:
        """Takes a job in; its memory is not asked for here, where all workers share what there is."""
        self._queue.append(_Job(name, (function, arguments), seconds))

    def wait(self, seconds: float = float("inf")) -> list[Ended]:
        """Waits until a job ends, if there is one, and no longer than that; every job that has ended by then.

        Raises:
            RedteamError: If workers end before they are ready to work, one after the other.
        """
        ended: list[Ended] = []
        until = time.monotonic() + seconds
        while not ended and self.jobs:
            while len(self._workers) < min(self._size, self.jobs):
                self._hire()
            for worker in self._workers:
                if worker.ready and worker.job is None and self._queue:
                    self._hand(worker, self._queue.popleft())
            soonest = min(until, *(worker.deadline for worker in self._workers))
            patience = None if soonest == float("inf") else max(0.0, soonest - time.monotonic())
            signs = [sign for worker in self._workers for sign in (worker.pipe, worker.process.sentinel)]
            signalled = multiprocessing.connection.wait(signs, patience)
            for worker in list(self._workers):
                if worker.pipe in signalled or worker.process.sentinel in signalled:
                    ended.extend(self._hear(worker))
                elif worker.job is not None and worker.deadline <= time.monotonic():
                    ended.append(Ended(worker.job.name, "timeout"))
                    self._dismiss(worker)
            if time.monotonic() >= until:
                break
        return ended

    def _hire(self) -> None:
        here, there = self._context.Pipe()
        process = self._context.Process(  # type: ignore[attr-defined]
            target=_work, args=(there,), name="redteam worker"
        )
        try:
            with _as_children_inherit():
                process.start()
        except (OSError, EOFError):  # the server that forks them was killed; the next start brings it back
            here.close()
            self._bury(None)
        else:
            self._workers.append(_Worker(process, here))
        finally:
            there.close()

    def _hand(self, worker: _Worker, job: _Job) -> None:
        try:
            worker.pipe.send(job.call)
        except OSError:  # it has died idle, which its sentinel is about to say
            self._queue.appendleft(job)
        else:
            worker.job, worker.deadline = job, time.monotonic() + job.seconds

    def _hear(self, worker: _Worker) -> Iterator[Ended]:
        try:
            said = worker.pipe.recv() if worker.pipe.poll() else None
            if said is None and worker.process.is_alive():
                return
        except (OSError, EOFError):  # it died, perhaps in mid-sentence
            said = None
        if said is None:
            job, ready = worker.job, worker.ready
            code = self._dismiss(worker)
            if job is not None:
                yield Ended(job.name, "died", exit_code=code)
            elif not ready:
                self._bury(code)
        elif worker.job is None:
            worker.ready = True
            self._stillborn.clear()
        else:
            job, worker.job, worker.deadline = worker.job, None, float("inf")
            yield Ended(job.name, "done", said[0])

    def _dismiss(self, worker: _Worker) -> int | None:
        self._workers.remove(worker)
        return worker.kill()

    def _bury(self, code: int | None) -> None:
        killed = code == -signal.SIGKILL
        most = _KILLED if killed else _STILLBORN
        how = (
            "were killed before they could work, perhaps for want of memory; fewer --workers need less."
            if killed
            else f"ended before they could work (exit code {code}). A script that calls redteam.run needs "
            "if __name__ == '__main__'."
        )
        self._stillborn[killed] += 1
        if self._stillborn[killed] >= most:
            raise RedteamError(f"{most} worker processes in a row {how} --workers 0 does without any.")

    def __enter__(self) -> Pool:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if kind is None:
            for worker in self._workers:
                worker.pipe.close()
            until = time.monotonic() + _PATIENCE
            for worker in self._workers:
                worker.process.join(max(0.0, until - time.monotonic()))
        while self._workers:
            self._dismiss(self._workers[0])


def _work(pipe: multiprocessing.connection.Connection) -> None:
    """A worker's main loop: says that it is ready, then serves jobs until the pipe closes."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # an interrupt from the keyboard is the main process's business
    threading.Thread(target=_leave_with_the_main_process, daemon=True).start()
    for module in _PRELOAD:
        importlib.import_module(module)
    with suppress(EOFError, OSError):
        pipe.send("ready")
        while True:
            function, arguments = pipe.recv()
            pipe.send((function(*arguments),))


def _leave_with_the_main_process() -> None:
    parent = multiprocessing.parent_process()
    if parent is not None:
        parent.join()
        os._exit(1)


@contextmanager
def _as_children_inherit() -> Iterator[None]:
    """One thread, and no interrupts from the keyboard, even while they load torch."""
    masks = hasattr(signal, "pthread_sigmask")
    if masks:
        resource_tracker.ensure_running()  # started later, it would lift the mask
        mask = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    try:
        with one_thread():
            yield
    finally:
        if masks:
            signal.pthread_sigmask(signal.SIG_SETMASK, mask)
