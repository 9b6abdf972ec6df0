"""What a scheduler asks of processes that take one job at a time, on this machine or on many."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Literal, Protocol

ONE_THREAD = dict.fromkeys(("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS"), "1")


@contextmanager
def one_thread() -> Iterator[None]:
    """What processes that are started meanwhile read when they first load torch."""
    before = {name: os.environ.get(name) for name in ONE_THREAD}
    os.environ.update(ONE_THREAD)
    try:
        yield
    finally:
        for name, value in before.items():
            if value is None:
                del os.environ[name]
            else:
                os.environ[name] = value


@dataclass(frozen=True)
class Ended:
    """How a job ended.

    Attributes:
        job: Its name.
        how: `"done"`; `"timeout"`: it was ended; `"died"`: its process did, by itself, by a signal or with its machine.
        value: What its function returned.
        exit_code: The process's, negative for a signal; `None` where nobody knows.
    """

    job: str
    how: Literal["done", "timeout", "died"]
    value: Any = None
    exit_code: int | None = None


class Workers(Protocol):
    """Processes that may die at any moment: a lost one costs its job and nothing else."""

    @property
    def jobs(self) -> int:
        """How many jobs have not ended."""

    @property
    def free(self) -> bool:
        """Whether a further job would not have to wait for another one."""

    def resize(self, size: int) -> None:
        """Sets how many jobs there may be at once, while there is none."""

    def start(self, name: str, function: Callable[..., Any], *arguments: Any, seconds: float, memory: int = 0) -> None:
        """Takes a job in.

        Args:
            name: Under which its end is told.
            function: Importable by name; must not raise.
            arguments: For the function.
            seconds: Its time limit, from when a worker takes it up.
            memory: Bytes that a machine must have left for it, as far as they are known.
        """

    def wait(self, seconds: float = float("inf")) -> list[Ended]:
        """Waits until a job ends, if there is one, and no longer than that; every job that has ended by then.

        Raises:
            RedteamError: If no worker is able to work.
        """
