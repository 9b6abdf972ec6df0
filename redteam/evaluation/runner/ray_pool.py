"""Jobs on the machines of a Ray cluster: Ray places and starts them, and says when one was lost with its machine.

A job is a task that answers twice: that it has begun, from when its time counts, and what it returned. Ray repeats
nothing by itself: who asked for a job decides about that, as on one machine.
"""

from __future__ import annotations

import os
import platform
import secrets
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from types import TracebackType
from typing import Any

from redteam.errors import BadInput, RedteamError
from redteam.evaluation.digest import engine_digest, versions
from redteam.evaluation.runner.workers import ONE_THREAD, Ended, one_thread

_STORE = 100_000_000  # bytes for what a cluster of this machine passes on: outcomes, since weights go through files


@dataclass(frozen=True)
class _Needed:
    """What a machine must have to compute a step of this run.

    Attributes:
        mark: A file that was made for this run alone, beside its steps.
        files: Of plugins, where the plan has them.
        program: The engine's digest and the versions of libraries.
    """

    mark: Path
    files: tuple[Path, ...]
    program: dict[str, str]


@dataclass(eq=False)
class _Job:
    name: str
    answers: Any
    seconds: float
    deadline: float = float("inf")


class RayPool:
    """Tasks on a Ray cluster, one CPU each.

    Args:
        size: How many at most; `None` for as many as the cluster has CPUs.
        address: Of the cluster, `HOST:PORT`, on one of whose machines this runs; by default `$RAY_ADDRESS`, and
            without that a cluster of this machine alone, which ends with the pool.
        root: The run's folder, which every machine must see under this path.
        files: Of plugins, which every machine must see likewise.
        gpus: How many GPUs a task has to itself.

    Raises:
        BadInput: If Ray is not installed, no cluster answers, or it has not as many GPUs.
    """

    def __init__(
        self, size: int | None, *, address: str = "", root: Path, files: Sequence[Path] = (), gpus: int = 0
    ) -> None:
        address = address or os.environ.get("RAY_ADDRESS", "")
        self._ray, self._ours = _connected(address, size)
        there = self._ray.cluster_resources()
        if gpus > there.get("GPU", 0):
            if self._ours:
                self._ray.shutdown()
            raise BadInput(f"A computation takes {gpus} GPU, and the Ray cluster has {there.get('GPU', 0):g}.")
        self.size = size or max(1, int(there.get("CPU", 1)))
        self._jobs: list[_Job] = []
        root.mkdir(parents=True, exist_ok=True)
        self._mark = root.absolute() / f".ray-{secrets.token_hex(8)}"
        self._mark.touch()
        self._needed = _Needed(
            self._mark, tuple(file.absolute() for file in files), {"engine": engine_digest(), **versions()}
        )
        self._task = self._ray.remote(_work)
        self._options = {
            "num_cpus": 1,
            "num_gpus": gpus,
            "max_retries": 0,
            "num_returns": "streaming",
        }
        if address or not self._ours:  # another's workers: those with these settings have to be started first
            self._options["runtime_env"] = {"env_vars": ONE_THREAD}

    @property
    def jobs(self) -> int:
        return len(self._jobs)

    @property
    def free(self) -> bool:
        return len(self._jobs) < self.size

    def resize(self, size: int) -> None:
        self.size = size

    def start(self, name: str, function: Callable[..., Any], *arguments: Any, seconds: float, memory: int = 0) -> None:
        # What no machine has would be waited for without end.
        most = max((node["Resources"].get("memory", 0) for node in self._ray.nodes() if node["Alive"]), default=0)
        asked = {"memory": min(memory, int(most))} if memory and most else {}
        task = self._task.options(**self._options, **asked)
        self._jobs.append(_Job(name, task.remote(self._needed, function, arguments), seconds))

    def wait(self, seconds: float = float("inf")) -> list[Ended]:
        ended: list[Ended] = []
        until = time.monotonic() + seconds
        while not ended and self._jobs:
            soonest = min(until, *(job.deadline for job in self._jobs))
            patience = None if soonest == float("inf") else max(0.0, soonest - time.monotonic())
            everybody = [job.answers for job in self._jobs]
            if self._ray.wait(everybody, timeout=patience)[0]:
                signalled = set(self._ray.wait(everybody, num_returns=len(everybody), timeout=0)[0])
                for job in [job for job in self._jobs if job.answers in signalled]:
                    ended.extend(self._hear(job))
            for job in [job for job in self._jobs if job.deadline <= time.monotonic()]:
                ended.append(Ended(job.name, "timeout"))
                self._dismiss(job)
            if time.monotonic() >= until:
                break
        return ended

    def _hear(self, job: _Job) -> Iterator[Ended]:
        from ray import exceptions

        try:
            said = self._ray.get(next(job.answers))
        except (exceptions.RuntimeEnvSetupError, exceptions.RayTaskError, exceptions.RaySystemError) as error:
            last = str(error).strip().splitlines()[-1]
            raise RedteamError(
                f"A machine of the cluster cannot work ({last}); each of them needs the environment that this one has."
            ) from None
        except (exceptions.RayError, StopIteration):  # its process was killed, or its machine is gone
            self._jobs.remove(job)
            yield Ended(job.name, "died")
            return
        if said == "begun":
            job.deadline = time.monotonic() + job.seconds
        elif isinstance(said, str):
            raise BadInput(said)
        else:
            self._jobs.remove(job)
            yield Ended(job.name, "done", said[0])

    def _dismiss(self, job: _Job) -> None:
        self._jobs.remove(job)
        self._ray.cancel(job.answers, force=True)

    def __enter__(self) -> RayPool:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        with suppress(OSError):
            self._mark.unlink()
        for job in list(self._jobs):
            with suppress(Exception):
                self._dismiss(job)
        if self._ours:
            self._ray.shutdown()


def _connected(address: str, size: int | None) -> tuple[Any, bool]:
    """Ray, connected, and whether it was not before."""
    os.environ["RAY_USAGE_STATS_ENABLED"] = "0"
    if not address or address.startswith(("127.", "localhost:")):
        os.environ["RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER"] = "0"  # on any system: it then stays on the loopback
    try:
        import ray
    except ImportError:
        raise BadInput("--engine ray needs Ray, which is not installed; pip install 'merge-redteam[ray]'.") from None
    if ray.is_initialized():
        return ray, False
    if address.startswith("ray://"):
        raise BadInput(
            f"A run is not steered from outside a cluster, as {address} asks; start it on one of its machines, with "
            "--ray-address HOST:PORT."
        )
    local = {"num_cpus": size, "object_store_memory": _STORE, "include_dashboard": False}
    quiet = {"log_to_driver": False, "logging_level": "ERROR"}
    try:
        if address:
            ray.init(address=address, **quiet)
        else:
            with one_thread():
                ray.init(address="local", **quiet, **local)
    except Exception as error:  # a node that is late raises no class of its own
        first = str(error).strip().splitlines()[0].rstrip(".") if str(error).strip() else type(error).__name__
        if not address:
            raise BadInput(
                f"Ray does not start on this machine ({first}); try again when it is less busy, or leave --engine out."
            ) from None
        raise BadInput(
            f"No Ray cluster answers at {address} ({first}); expected HOST:PORT of one that this machine is part of."
        ) from None
    return ray, True


def _work(needed: _Needed, function: Callable[..., Any], arguments: tuple[Any, ...]) -> Iterator[Any]:
    """A job in a worker: says what is wanting there, or that it has begun and then what the function returned."""
    if wanting := _wanting(needed):
        yield wanting
        return
    yield "begun"
    yield (function(*arguments),)


def _wanting(needed: _Needed) -> str:
    """A sentence on what this machine lacks; empty where it lacks nothing."""
    here = platform.node()
    for path, what in ((needed.mark.parent, "--out"), *((file, "a plugin") for file in needed.files)):
        if not (needed.mark if path == needed.mark.parent else path).is_file():
            return (
                f"{here}, a machine of the cluster, does not see {path} ({what}); it has to lie in a folder that all "
                "of them share, under the same path."
            )
    found = _program()
    for name, wanted in needed.program.items():
        if found[name] != wanted:
            return (
                f"{here}, a machine of the cluster, has another {name} ({found[name][:12]}, here {wanted[:12]}); each "
                "of them needs the environment that this one has."
            )
    return ""


@lru_cache(maxsize=1)
def _program() -> dict[str, str]:
    return {"engine": engine_digest(), **versions()}
