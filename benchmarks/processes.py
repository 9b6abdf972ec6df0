"""Whole commands, each in a process of its own: what they cost, and as ratios against a peer's."""

from __future__ import annotations

import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from bench import Line

REPEATS = 3


@dataclass(frozen=True)
class Cost:
    """What a process took: seconds, and gigabytes at most resident."""

    seconds: float
    gigabytes: float


def spent(words: Sequence[str | Path]) -> Cost:
    """Runs a process to its end."""
    environment = {key: value for key, value in os.environ.items() if key != "OMP_NUM_THREADS"}
    environment |= {"HF_HUB_OFFLINE": "1", "TOKENIZERS_PARALLELISM": "false"}
    with tempfile.TemporaryFile() as told:
        started = time.perf_counter()
        child = subprocess.Popen([str(word) for word in words], stdout=told, stderr=told, env=environment)
        _, status, usage = os.wait4(child.pid, 0)
        seconds = time.perf_counter() - started
        child.returncode = os.waitstatus_to_exitcode(status)
        if child.returncode:
            told.seek(0)
            raise SystemExit(f"{' '.join(map(str, words))} failed:\n{told.read().decode(errors='replace')[-3000:]}")
    unit = 1 if sys.platform == "darwin" else 1024
    return Cost(seconds, usage.ru_maxrss * unit / 1e9)


Command = Callable[[Path], Sequence[str | Path]]
"""Words of a command, from the folder that it writes."""


def costs(commands: Mapping[str, Command], work: Path) -> Iterator[tuple[str, list[Cost]]]:
    """What each command costs, several times, one after the other in turn; what it writes is removed at once.

    Yields each command with its costs as soon as it ran for the last time; the one named first is known first.
    """
    import shutil

    found: dict[str, list[Cost]] = {name: [] for name in commands}
    for turn in range(1, REPEATS + 1):
        for name, words in commands.items():
            out = work / "out"
            cost = spent(words(out))
            shutil.rmtree(out)
            print(f"{name}, run {turn} of {REPEATS}: {cost.seconds:.1f} s", file=sys.stderr, flush=True)
            found[name].append(cost)
            if turn == REPEATS:
                yield name, found[name]


def against(what: str, mine: list[Cost], peer: list[Cost], time_limit: float, memory_limit: float) -> Iterator[Line]:
    """Both ratios, pair by pair."""
    times = [one.seconds / other.seconds for one, other in zip(mine, peer, strict=True)]
    yield Line(f"{what}: time", statistics.median(times), (min(times), max(times)), time_limit)
    sizes = [one.gigabytes / other.gigabytes for one, other in zip(mine, peer, strict=True)]
    yield Line(f"{what}: peak memory", statistics.median(sizes), (min(sizes), max(sizes)), memory_limit)


def plain(what: str, found: list[Cost], limit: float | None = None) -> Iterator[Line]:
    """Seconds and gigabytes themselves."""
    seconds, sizes = ([getattr(one, key) for one in found] for key in ("seconds", "gigabytes"))
    yield Line(f"{what}: seconds", statistics.median(seconds), (min(seconds), max(seconds)))
    yield Line(f"{what}: peak memory in GB", max(sizes), (min(sizes), max(sizes)), limit)


def redteam(*words: str | Path) -> list[str | Path]:
    """The command as a user calls it."""
    return [Path(sys.executable).with_name("redteam"), *words]


def tell(parts: Mapping[str, Callable[[Path], Iterator[Line]]]) -> None:
    """Prints each line of the parts that were named, or of all, once it is known; every part has a folder to itself."""
    for name in sys.argv[1:] or parts:
        with tempfile.TemporaryDirectory(prefix="redteam-bench-") as folder:
            for line in parts[name](Path(folder)):
                print(line, flush=True)
