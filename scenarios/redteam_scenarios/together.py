"""Experts that are trained side by side in one process, each on a thread: torch computes without Python's lock."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from queue import SimpleQueue
from threading import Lock

import torch

from redteam.checkpoint import Checkpoint

Steps = Callable[[int], Iterator[int]]
"""How many steps → their numbers, one after the other; between the first and the last of them others train as well."""


@contextmanager
def fixed_threads(count: int) -> Iterator[None]:
    """Runs torch on `count` threads with gradients on, and restores both."""
    before = torch.get_num_threads()
    torch.set_num_threads(count)
    try:
        with torch.enable_grad():
            yield
    finally:
        torch.set_num_threads(before)


def trained_together(
    jobs: Mapping[str, Callable[[Steps], Checkpoint]], step: Callable[[str], None], threads: int
) -> dict[str, Checkpoint]:
    """What each job makes, to the same bits as one after the other. The global generators stay as they were.

    Whatever surrounds the steps of a job, such as building a network, is done by one at a time: libraries set global
    switches meanwhile.

    Args:
        jobs: Name → what trains, on the steps that it is given.
        step: Told of every step by its job's name, from the thread that called this.
        threads: Of torch, for each of them.

    Raises:
        Exception: What the first job that failed has raised, once the others have ended.
    """
    turn, told = Lock(), SimpleQueue[str | None]()

    def run(name: str) -> Checkpoint:
        at_work = [turn.acquire()]

        def steps(count: int) -> Iterator[int]:
            turn.release()
            at_work.clear()
            for index in range(count):
                yield index
                told.put(name)
            at_work.append(turn.acquire())

        try:
            with fixed_threads(threads):
                return jobs[name](steps)
        finally:
            if at_work:
                turn.release()
            told.put(None)

    with torch.random.fork_rng(devices=[]), ThreadPoolExecutor(len(jobs)) as pool:
        running = {name: pool.submit(run, name) for name in jobs}
        left = len(running)
        while left:
            if (name := told.get()) is None:
                left -= 1
            else:
                step(name)
        return {name: one.result() for name, one in running.items()}
