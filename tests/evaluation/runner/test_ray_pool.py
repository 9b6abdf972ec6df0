"""Ray as the engine, on a cluster of two nodes that stand on this machine: what is lost costs itself alone."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest

from redteam.errors import BadInput
from redteam.evaluation.runner import ray_pool
from redteam.evaluation.runner.ray_pool import RayPool
from redteam.evaluation.runner.workers import Ended
from tests.evaluation.test_kill import below, killed_twenty_times

pytestmark = [
    pytest.mark.slow,
    pytest.mark.filterwarnings("ignore::ResourceWarning"),  # of Ray's own sockets and files
    pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning"),
    pytest.mark.filterwarnings("ignore::FutureWarning"),
    pytest.mark.filterwarnings("ignore::DeprecationWarning"),
]


class Nodes:
    """Two nodes with one CPU each, in a process that stands apart, since Ray's clients of one process share threads."""

    def __init__(self) -> None:
        self.process = subprocess.Popen(
            [sys.executable, Path(__file__).with_name("nodes.py")],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            text=True,
        )
        self.address = self.answer()
        self.lost = False

    def answer(self) -> str:
        assert self.process.stdout is not None
        return self.process.stdout.readline().strip()

    def order(self, what: str) -> None:
        assert self.process.stdin is not None
        self.process.stdin.write(f"{what}\n")
        self.process.stdin.flush()
        assert self.answer() == "done"
        self.lost = what == "remove"

    def close(self) -> None:
        assert self.process.stdin is not None
        self.process.stdin.close()
        assert self.process.wait(60) == 0
        assert self.process.stdout is not None
        self.process.stdout.close()


@pytest.fixture(scope="module")
def nodes() -> Iterator[Nodes]:
    if not find_spec("ray"):  # not imported: what keeps it on the loopback is read at its import
        pytest.skip("Ray is not installed; uv pip install ray")
    made = Nodes()
    yield made
    made.close()


@pytest.fixture
def cluster(nodes: Nodes) -> Iterator[Nodes]:
    """A test may lose a node; there are two again after it."""
    yield nodes
    if nodes.lost:
        nodes.order("add")


@pytest.fixture
def pool(cluster: Nodes, tmp_path: Path) -> Iterator[RayPool]:
    with RayPool(None, address=cluster.address, root=tmp_path / "out") as pool:
        yield pool
    assert list((tmp_path / "out").iterdir()) == []


def ends(pool: RayPool, count: int) -> dict[str, Ended]:
    ended: list[Ended] = []
    while len(ended) < count and (news := pool.wait()):
        ended += news
    return {one.job: one for one in ended}


def workers(cluster: Nodes) -> list[int]:
    """Processes of tasks: Ray calls them by what they are."""
    found = []
    for pid in below(cluster.process.pid):
        try:
            words = Path(f"/proc/{pid}/cmdline").read_bytes()
        except OSError:
            continue
        if words.startswith((b"ray::_work", b"ray::IDLE")):
            found.append(pid)
    return found


class TestPool:
    def test_answers_on_both_nodes_on_one_thread(self, pool: RayPool) -> None:
        assert pool.size == 2
        for index in range(6):
            pool.start(str(index), os.getenv, "OMP_NUM_THREADS", seconds=60)
        assert not pool.free
        assert pool.jobs == 6
        ended = ends(pool, 6)
        assert {one.how for one in ended.values()} == {"done"}
        assert {one.value for one in ended.values()} == {"1"}
        assert pool.wait() == []
        assert pool.free

    def test_what_takes_too_long_is_ended_and_the_rest_goes_on(self, pool: RayPool) -> None:
        pool.start("long", time.sleep, 100, seconds=0.5)
        for index in range(3):
            pool.start(str(index), os.getpid, seconds=60)
        ended = ends(pool, 4)
        assert {job: one.how for job, one in ended.items()} == {
            "long": "timeout",
            "0": "done",
            "1": "done",
            "2": "done",
        }

    def test_it_waits_no_longer_than_it_is_asked_to(self, pool: RayPool) -> None:
        pool.start("long", time.sleep, 100, seconds=float("inf"))
        started = time.monotonic()
        assert pool.wait(0.3) == []
        assert 0.3 <= time.monotonic() - started < 20

    @pytest.mark.parametrize("code", [signal.SIGKILL, signal.SIGSEGV])
    def test_a_signal_costs_the_job(self, pool: RayPool, code: signal.Signals) -> None:
        pool.start("dies", signal.raise_signal, code, seconds=60)
        pool.start("lives", os.getpid, seconds=60)
        ended = ends(pool, 2)
        assert ended["dies"].how == "died"
        assert ended["lives"].how == "done"

    def test_more_memory_than_any_node_has_is_no_reason_to_wait(self, pool: RayPool) -> None:
        pool.start("large", os.getpid, seconds=60, memory=10**15)
        assert ends(pool, 1)["large"].how == "done"

    def test_a_gpu_that_no_node_has(self, cluster: Nodes, tmp_path: Path) -> None:
        with pytest.raises(BadInput, match="A computation takes 1 GPU, and the Ray cluster has 0"):
            RayPool(1, address=cluster.address, root=tmp_path, gpus=1)

    def test_a_lost_node_costs_its_job(self, pool: RayPool, cluster: Nodes) -> None:
        for name in ("a", "b"):
            pool.start(name, time.sleep, 3, seconds=600)
        until = time.monotonic() + 60
        while sum(job.deadline < float("inf") for job in pool._jobs) < 2:
            assert pool.wait(0.1) == []
            assert time.monotonic() < until
        cluster.order("remove")
        assert sorted(one.how for one in ends(pool, 2).values()) == ["died", "done"]

    def test_a_folder_that_a_machine_does_not_see(self, pool: RayPool, tmp_path: Path) -> None:
        pool._mark.rename(tmp_path / "away")
        pool.start("any", os.getpid, seconds=60)
        with pytest.raises(BadInput, match=r"does not see .*/out \(--out\); it has to lie in a folder that all"):
            ends(pool, 1)
        (tmp_path / "away").rename(pool._mark)

    def test_a_plugin_that_a_machine_does_not_see(self, cluster: Nodes, tmp_path: Path) -> None:
        with RayPool(1, address=cluster.address, root=tmp_path, files=[tmp_path / "mine.py"]) as pool:
            pool.start("any", os.getpid, seconds=60)
            with pytest.raises(BadInput, match=r"does not see .*/mine.py \(a plugin\)"):
                ends(pool, 1)

    def test_another_environment(self, cluster: Nodes, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(ray_pool, "versions", lambda: {"torch": "1.0"})
        with RayPool(1, address=cluster.address, root=tmp_path) as pool:
            pool.start("any", os.getpid, seconds=60)
            with pytest.raises(
                BadInput, match=r"has another torch \(.*, here 1.0\); each of them needs the environment"
            ):
                ends(pool, 1)


@pytest.fixture(scope="module")
def undisturbed(once: Callable[..., Any], toys: Any) -> Any:
    """In one process, without a pool."""
    return once("undisturbed", toys.small())


class TestRun:
    def test_gives_the_same_numbers(self, undisturbed: Any, toys: Any, cluster: Nodes, tmp_path: Path) -> None:
        done = toys.run(toys.small(), tmp_path, workers=2, engine="ray", ray_address=cluster.address)
        assert toys.numbers(done.results) == toys.numbers(undisturbed.results)
        assert list((tmp_path / "work").iterdir()) == []

    def test_a_node_is_lost_on_the_way(self, undisturbed: Any, toys: Any, cluster: Nodes, tmp_path: Path) -> None:
        class Axe(toys.Counting):  # type: ignore[misc, name-defined]
            def settled(self, label: str, status: str, reason: str, done: int, total: int) -> None:
                super().settled(label, status, reason, done, total)
                if done == 5:
                    cluster.order("remove")

        seen = Axe()
        done = toys.run(toys.small(), tmp_path, workers=2, engine="ray", ray_address=cluster.address, observer=seen)
        assert cluster.lost
        assert {status for _, status in seen.settlements} == {"ok"}
        assert toys.numbers(done.results) == toys.numbers(undisturbed.results)

    def test_twenty_kills_at_random_moments(self, undisturbed: Any, toys: Any, cluster: Nodes, tmp_path: Path) -> None:
        def run(folder: Path) -> Any:
            return toys.run(toys.small(), folder, workers=2, engine="ray", ray_address=cluster.address)

        for done in killed_twenty_times(run, tmp_path, lambda: workers(cluster)):
            assert toys.numbers(done.results) == toys.numbers(undisturbed.results)

    def test_the_driver_is_killed_and_started_again(
        self, undisturbed: Any, toys: Any, cluster: Nodes, tmp_path: Path, environment: dict[str, str]
    ) -> None:
        plan = toys.write({**toys.small(), "name": "custom"}, tmp_path / "plan.toml")
        command = [toys.redteam, "run", plan, "--out", tmp_path / "out", "--engine", "ray", "--workers", "2"]
        given = environment | {"RAY_ADDRESS": cluster.address}
        with subprocess.Popen(command, stderr=subprocess.PIPE, text=True, stdout=subprocess.DEVNULL, env=given) as run:
            for line in run.stderr or ():
                if line.startswith("[7/"):
                    break
            run.kill()
        cells = {p.name: p.read_bytes() for p in (tmp_path / "out" / "cells").glob("*.json")}
        assert len(cells) >= 7
        done = subprocess.run(command, capture_output=True, text=True, env=given, timeout=600)
        assert done.returncode == 0, done.stderr
        assert toys.numbers(toys.read(tmp_path / "out").results) == toys.numbers(undisturbed.results)
        assert {name: (tmp_path / "out" / "cells" / name).read_bytes() for name in cells} == cells
