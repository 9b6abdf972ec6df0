"""`kill -9` of the run and of its workers at random moments: what was finished stays, and the numbers are the same."""

from __future__ import annotations

import contextlib
import io
import itertools
import os
import random
import re
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Collection, Iterator
from pathlib import Path
from typing import Any

import pytest

from redteam.errors import PluginFault, RedteamError
from redteam.evaluation.runner import pool as pools
from redteam.evaluation.runner.pool import Ended, Pool

linux = pytest.mark.skipif(not sys.platform.startswith("linux"), reason="finds processes in /proc")


def state(pid: int) -> tuple[str, int]:
    """A process's state and its parent; ("X", 0) once it is gone."""
    try:
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
        threads = len(list(Path(f"/proc/{pid}/task").iterdir()))
    except OSError:
        return "X", 0
    # A first thread that is dead already holds its files open until the others are.
    return "D" if fields[0] == "Z" and threads > 1 else fields[0], int(fields[1])


def below(ancestor: int) -> set[int]:
    """Every living process that descends from one."""
    parents = {int(p.name): state(int(p.name)) for p in Path("/proc").iterdir() if p.name.isdigit()}
    found, fresh = set(), {ancestor}
    while fresh:
        fresh = {pid for pid, (how, parent) in parents.items() if parent in fresh and how not in "XZ"} - found
        found |= fresh
    return found


def workers() -> list[int]:
    """Processes that compute for this one: they were forked from a server that is our child, and have no child."""
    ours = below(os.getpid())
    return [pid for pid in ours if state(pid)[1] != os.getpid() and not below(pid)]


@contextlib.contextmanager
def slaughter(
    draw: random.Random, *, pause: float, most: int, find: Callable[[], Collection[int]] = workers
) -> Iterator[list[int]]:
    """Kills some worker, of this process where nothing else is said, after random pauses; gives those killed."""
    ended, killed = threading.Event(), []

    def hand() -> None:
        while len(killed) < most and not ended.wait(draw.uniform(0, pause)):
            if victims := find():
                killed.append(draw.choice(sorted(victims)))
                with contextlib.suppress(ProcessLookupError):
                    os.kill(killed[-1], signal.SIGKILL)

    thread = threading.Thread(target=hand)
    thread.start()
    try:
        yield killed
    finally:
        ended.set()
        thread.join()


def killed_twenty_times(
    run: Callable[[Path], Any], folder: Path, find: Callable[[], Collection[int]] = workers
) -> Iterator[Any]:
    """Runs in new folders until twenty workers were killed, each again until nothing failed; what each comes to."""
    draw, count = random.Random(3), 0
    for turn in itertools.count():
        home = folder / str(turn)
        with slaughter(draw, pause=0.5, most=20 - count, find=find) as killed:
            while failed := failures(run, home):
                assert all("its process died 3 times" in reason for reason in failed)
        count += len(killed)
        kept = {file: file.read_bytes() for file in home.glob("cells/*.json")}
        yield run(home)
        assert {file: file.read_bytes() for file in kept} == kept
        if count == 20:
            return


def failures(run: Callable[[Path], Any], folder: Path) -> list[str]:
    """Why cells failed; one reason where those failed that all else is measured against, which ends the run."""
    try:
        cells = run(folder).results.cells
    except PluginFault as stopped:
        return [str(stopped)]
    return [cell.reason for cell in cells if cell.status != "ok"]


def gone(pids: set[int], seconds: float = 10) -> bool:
    """Whether all of them are, within that time."""
    until = time.monotonic() + seconds
    while any(state(pid)[0] not in "XZ" for pid in pids):
        if time.monotonic() > until:
            return False
        time.sleep(0.05)
    return True


@pytest.fixture(scope="module")
def undisturbed(once: Callable[..., Any], toys: Any) -> Any:
    """In one process, without a pool."""
    return once("undisturbed", toys.small())


@pytest.mark.parametrize("count", [1, 2])
def test_any_number_of_workers_gives_the_same_numbers(undisturbed: Any, toys: Any, tmp_path: Path, count: int) -> None:
    seen = toys.Counting()
    done = toys.run(toys.small(), tmp_path, workers=count, observer=seen)
    assert toys.numbers(done.results) == toys.numbers(undisturbed.results)
    assert len(seen.labels) == len(list((tmp_path / "cells").iterdir()))
    assert workers() == []


@linux
class TestWorkers:
    def test_killed_at_random_moments(self, undisturbed: Any, toys: Any, tmp_path: Path) -> None:
        # Fewer kills than a cell has lives: the run gets over them by itself.
        with slaughter(random.Random(1), pause=0.8, most=2) as killed:
            done = toys.run(toys.small(), tmp_path, workers=2)
        assert killed
        assert toys.numbers(done.results) == toys.numbers(undisturbed.results)
        assert done.results.exit_code == 0
        assert list((tmp_path / "work").iterdir()) == []
        assert gone(set(killed))

    def test_killed_over_and_over_then_run_again(self, undisturbed: Any, toys: Any, tmp_path: Path) -> None:
        with slaughter(random.Random(2), pause=0.3, most=20) as killed:
            failed = failures(lambda folder: toys.run(toys.small(), folder, workers=2), tmp_path)
        assert len(killed) > 2
        assert all("its process died 3 times" in reason for reason in failed)
        second = toys.run(toys.small(), tmp_path, workers=2)
        assert toys.numbers(second.results) == toys.numbers(undisturbed.results)

    @pytest.mark.slow
    def test_twenty_kills_at_random_moments(self, undisturbed: Any, toys: Any, tmp_path: Path) -> None:
        for done in killed_twenty_times(lambda folder: toys.run(toys.small(), folder, workers=2), tmp_path):
            assert toys.numbers(done.results) == toys.numbers(undisturbed.results)

    @pytest.mark.slow
    def test_together_with_the_server_that_forks_them(self) -> None:
        with Pool(2) as pool:
            for name in "ab":
                pool.start(name, _slow, name, seconds=60)
            assert _wait(pool, 1)
            computing = set(workers())
            doomed = computing | {state(pid)[1] for pid in computing}
            for pid in doomed:
                os.kill(pid, signal.SIGKILL)
            assert gone(doomed)
            pool.start("c", _slow, "c", seconds=60)
            ended = _wait(pool, 2)
        assert [e.value for e in ended if e.job == "c"] == ["c"]
        assert all(e.how in ("done", "died") for e in ended)
        assert workers() == []


@linux
def heeds_the_keyboard() -> None:
    """What runs in a shell's background inherits that it ignores interrupts, these tests included."""
    signal.signal(signal.SIGINT, signal.SIG_DFL)


class TestMain:
    @pytest.mark.slow
    def test_interrupted_and_killed_at_random_moments_then_run_again(
        self, undisturbed: Any, toys: Any, tmp_path: Path, environment: dict[str, str]
    ) -> None:
        self.killed(3, undisturbed, toys, tmp_path, environment)

    @pytest.mark.slow
    def test_killed_many_times(self, undisturbed: Any, toys: Any, tmp_path: Path, environment: dict[str, str]) -> None:
        self.killed(8, undisturbed, toys, tmp_path, environment)

    def killed(self, times: int, undisturbed: Any, toys: Any, folder: Path, environment: dict[str, str]) -> None:
        draw = random.Random(2)
        plan = toys.write({**toys.small(), "name": "custom"}, folder / "plan.toml")
        command = [toys.redteam, "run", plan, "--out", folder / "out", "--workers", "2"]
        kept = [0]
        for kill in range(times):
            with subprocess.Popen(
                command,
                stderr=subprocess.PIPE,
                stdout=subprocess.DEVNULL,
                text=True,
                env=environment,
                start_new_session=True,
                preexec_fn=heeds_the_keyboard,
            ) as run:
                total, cached = announced(run)
                assert cached >= kept[-1], "what was finished before the last kill is still there"
                share = max(1, (total - cached) // (times - kill + 1))
                for line in run.stderr or ():
                    if line.startswith(f"[{cached + share}/"):
                        break
                time.sleep(draw.uniform(0, 0.15))
                family = below(run.pid)
                if kill == 0:  # the keyboard's way: everybody gets the signal
                    os.killpg(run.pid, signal.SIGINT)
                    assert (run.stderr or io.StringIO()).read().splitlines()[-1].startswith("Interrupted; the same")
                else:
                    run.kill()
            assert gone(family), "nobody lives on"
            if run.returncode == 0:  # it was quicker than we were
                break
            assert run.returncode == (130 if kill == 0 else -signal.SIGKILL)
            kept.append(cached + share)
        assert len(kept) > 2, "it was interrupted, and killed at least once"
        assert 0 < kept[1] <= kept[-1]
        done = subprocess.run(command, capture_output=True, text=True, env=environment, timeout=300)
        assert done.returncode == 0, done.stderr
        finished = toys.read(folder / "out")
        assert toys.numbers(finished.results) == toys.numbers(undisturbed.results)
        assert list((folder / "out" / "work").iterdir()) == []
        assert not [file for file in (folder / "out" / "cells").iterdir() if file.name.startswith(".")]


def announced(run: subprocess.Popen[str]) -> tuple[int, int]:
    """How many computations a run has planned, and how many were cached."""
    for line in run.stderr or ():
        if found := re.match(r"(\d+) computations, (\d+) of them cached", line):
            return int(found[1]), int(found[2])
    raise AssertionError("the run ended before it had planned anything")


class TestPool:
    """The pool by itself."""

    @pytest.fixture
    def pool(self) -> Iterator[Pool]:
        with Pool(2) as pool:
            yield pool
        assert workers() == []

    def test_answers_come_back_and_processes_are_kept(self, pool: Pool) -> None:
        for index in range(8):
            pool.start(str(index), _pid, seconds=60)
        assert not pool.free
        ended = _wait(pool, 8)
        assert {e.job for e in ended} == {str(index) for index in range(8)}
        assert {e.how for e in ended} == {"done"}
        assert len({e.value for e in ended}) <= 2
        assert pool.wait() == []
        assert pool.free

    def test_what_takes_too_long_is_ended_and_the_rest_goes_on(self, pool: Pool) -> None:
        pool.start("long", time.sleep, 60, seconds=0.3)
        pool.start("deaf", _deaf, seconds=0.3)
        for index in range(3):
            pool.start(str(index), _pid, seconds=60)
        ended = {e.job: e.how for e in _wait(pool, 5)}
        assert ended == {"long": "timeout", "deaf": "timeout", "0": "done", "1": "done", "2": "done"}

    def test_time_counts_from_when_a_worker_takes_it_up(self, pool: Pool) -> None:
        for index in range(6):
            pool.start(str(index), time.sleep, 0.3, seconds=0.8)
        assert {e.how for e in _wait(pool, 6)} == {"done"}

    @pytest.mark.parametrize("code", [signal.SIGKILL, signal.SIGSEGV, signal.SIGTERM])
    def test_a_signal_costs_the_job_and_is_told(self, pool: Pool, code: signal.Signals) -> None:
        pool.start("dies", _die, int(code), seconds=60)
        pool.start("lives", _slow, 5, seconds=60)
        ended = {e.job: e for e in _wait(pool, 2)}
        assert ended["dies"] == Ended("dies", "died", exit_code=-code)
        assert ended["lives"].value == 5

    @linux
    def test_idle_ones_may_die_all_at_once(self, pool: Pool) -> None:
        for name in "ab":
            pool.start(name, _slow, name, seconds=60)
        _wait(pool, 2)
        idle = workers()
        assert len(idle) == 2
        for pid in idle:
            os.kill(pid, signal.SIGKILL)
        assert gone(set(idle))
        pool.start("c", _slow, "c", seconds=60)
        assert [e.value for e in _wait(pool, 1)] == ["c"]

    def test_computes_on_one_thread(self, pool: Pool) -> None:
        pool.start("threads", _threads, seconds=60)
        assert _wait(pool, 1)[0].value == "1"

    def test_gives_up_on_workers_that_never_come_up(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(pools, "_work", _never)
        with Pool(2) as pool:
            pool.start("x", _pid, seconds=60)
            with pytest.raises(RedteamError, match="--workers 0 does without any"):
                pool.wait()

    def test_an_exception_ends_them_at_once(self) -> None:
        started = time.monotonic()

        def interrupted() -> None:
            with Pool(1) as pool:
                pool.start("a", _slow, 1, seconds=60)
                _wait(pool, 1)
                pool.start("b", time.sleep, 60, seconds=100)
                raise KeyboardInterrupt

        with pytest.raises(KeyboardInterrupt):
            interrupted()
        assert time.monotonic() - started < 30
        assert workers() == []


def _wait(pool: Pool, count: int) -> list[Ended]:
    ended: list[Ended] = []
    while len(ended) < count and (news := pool.wait()):
        ended += news
    return ended


def _pid() -> int:
    return os.getpid()


def _slow(value: Any) -> Any:
    time.sleep(0.2)
    return value


def _deaf() -> None:
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    time.sleep(60)


def _die(code: int) -> None:
    os.kill(os.getpid(), code)


def _threads() -> str:
    return os.environ["OMP_NUM_THREADS"]


def _never(pipe: Any) -> None:
    sys.exit(7)
