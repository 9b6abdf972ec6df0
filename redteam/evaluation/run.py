"""The main job: a plan in, results out, everything finished kept on the way.

    plan → resolve → load_scenarios → design → (progress ⇄ scheduler → scoring) → summarize → results

Each place (a defense in a scenario under a threat model) says what it needs next as its pairings end, until its verdict
rests on all that it has to rest on; the scheduler computes what any of them needs, each step once.
"""

from __future__ import annotations

import hashlib
import json
import platform
import subprocess
import time
from collections.abc import Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import asdict
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from typing import Any, Literal

from redteam.devices import CPU, require_device
from redteam.errors import BadInput
from redteam.evaluation.design import Design
from redteam.evaluation.digest import engine_digest, versions
from redteam.evaluation.engine import Engine
from redteam.evaluation.estimate import Estimate
from redteam.evaluation.flags import FLAGS
from redteam.evaluation.footprint import Budget
from redteam.evaluation.gate import gate
from redteam.evaluation.limitations import limitations, unfitting
from redteam.evaluation.load_scenarios import footprints, load_scenarios
from redteam.evaluation.plan import Plan, find_plan, run_folder
from redteam.evaluation.preview import laid_out
from redteam.evaluation.resolve import Ensemble, Resolved
from redteam.evaluation.results import Results
from redteam.evaluation.runner.pool import Pool
from redteam.evaluation.runner.ray_pool import RayPool
from redteam.evaluation.runner.shards import Shard, living_shards
from redteam.evaluation.runner.store import Store
from redteam.evaluation.runner.workers import Workers
from redteam.evaluation.summarize import Summary
from redteam.evaluation.thresholds import THRESHOLDS
from redteam.events import Observer
from redteam.files import write_atomically
from redteam.memory import size
from redteam.plugins.files import sources_of
from redteam.plugins.shipped import DEFAULT_PLAN
from redteam.plugins.source import digest_over


def run(
    plan: Plan | Mapping[str, Any] | str | Path = DEFAULT_PLAN,
    *,
    out: str | Path | None = None,
    workers: int | None = None,
    engine: Literal["local", "ray"] = "local",
    ray_address: str = "",
    shard: str = "",
    observer: Observer | None = None,
    folder: Path | None = None,
    command: str = "",
) -> Results:
    """Runs a plan and writes `results.json`. The same call again computes only what is missing.

    Args:
        plan: See `find_plan`.
        out: The folder for results and finished steps; `runs/NAME` by default.
        workers: Processes; 0 runs in this one, without time limits. By default 2, with Ray all CPUs of the cluster.
        engine: What starts processes: this program, on this machine, or Ray, on the machines of a cluster.
        ray_address: Of the cluster, `HOST:PORT`, on one of whose machines this runs; by default `$RAY_ADDRESS`, and
            without that Ray is started on this machine alone.
        shard: `"i/n"`, where several processes are to compute the plan in one folder, each called alike but for `i`.
            Each of them ends when all is computed, with the same results.
        observer: Told how it goes on; `redteam.events.Observers` passes events to several.
        folder: Where relative paths of plugin files start; by default the plan's own folder.
        command: The command that repeats the run, for the report.

    Returns:
        What was found, the last plan's pairings alone.

    Raises:
        RedteamError: If the plan or a plugin's name or setting is wrong, its device is not here, the scenario cannot
            work, or nothing can be written to `out`.
    """
    observer, started = observer or Observer(), time.monotonic()
    plan, home = find_plan(plan)
    require_device(plan.device)
    root = run_folder(plan, out)
    one = _shard(root, shard, plan) if shard else None
    if engine == "ray":
        if workers == 0:
            raise BadInput("--engine ray computes in workers, and --workers 0 leaves it none; expected 1 or more.")
        resolved, root = Resolved.of(plan, folder or home), root.absolute()
        files, gpus = tuple(resolved.files.values()), int(plan.device != CPU)
        with RayPool(workers, address=ray_address, root=root, files=files, gpus=gpus) as cluster:
            return _run(resolved, Store(root), cluster, cluster.size, observer, command, started, one)
    workers = 2 if workers is None else workers
    # Where there are results already, the same command again may have nothing to compute.
    first = workers if plan.memory is None else min(1, workers)  # until it is known how large the models are
    with Pool(first, soon=not (root / "results.json").exists()) if workers else nullcontext() as pool:
        resolved = Resolved.of(plan, folder or home)
        return _run(resolved, Store(root), pool, workers, observer, command, started, one)


def _shard(root: Path, text: str, plan: Plan) -> Shard:
    index, count = Shard.parse(text)
    return Shard(root, index, count, hashlib.sha256(plan.model_dump_json().encode()).hexdigest())


def _run(
    resolved: Resolved,
    store: Store,
    pool: Workers | None,
    workers: int,
    observer: Observer,
    command: str,
    started: float,
    shard: Shard | None,
) -> Results:
    ours: AbstractContextManager[Any] = alone_in(store.root) if shard is None else shard
    with ours, _told(observer, resolved.plan, store.root) as found:
        identities = load_scenarios(resolved, store, pool=pool, tell=observer.preparing, shard=shard)
        design, _ = laid_out(resolved, identities)
        if shard is None or shard.first:
            store.clear_work(keep=frozenset(design.steps))
        _announce(store, resolved, identities)
        while True:
            engine = engine_of(
                resolved, design, store, identities, pool=pool, workers=workers, observer=observer, shard=shard
            )
            engine.run()
            if not engine.scheduler.overtaken:
                break
        summary = Summary(design, engine.table, engine.places)
        results = results_of(resolved, engine, summary, command=command, duration=time.monotonic() - started)
        results.write(store.root / "results.json")
        if shard is None or shard.leave():
            store.clear_work()
        found.append(results)
    return results


def engine_of(
    resolved: Resolved,
    design: Design,
    store: Store,
    identities: Mapping[tuple[str, int], str],
    *,
    pool: Workers | None,
    workers: int,
    observer: Observer,
    shard: Shard | None = None,
) -> Engine:
    """What computes a plan that is laid out, with as many workers as its memory allows.

    Raises:
        BadInput: If the memory that the plan gives is too little for any computation.
    """
    estimate = _estimated(resolved, store, identities, design, workers)
    if pool is not None:
        pool.resize(estimate.workers)
    return Engine(resolved, design, store, pool=pool, observer=observer, estimate=estimate, shard=shard)


def _estimated(
    resolved: Resolved, store: Store, identities: Mapping[tuple[str, int], str], design: Design, workers: int
) -> Estimate:
    """What the run will cost, as far as the sizes of models and data tell.

    Raises:
        BadInput: If the memory that the plan gives is too little for any computation.
    """
    sizes = footprints(resolved, store)
    limit = resolved.plan.memory
    budget = None
    if limit is not None:
        budget = Budget.of(size(limit), {scenario: held for (scenario, _), held in sizes.items()}, workers)
    by_digest = {identities[where]: held for where, held in sizes.items()}
    return Estimate(by_digest, design.steps, max(1, budget.workers if budget else workers), budget)


def _announce(store: Store, resolved: Resolved, identities: Mapping[tuple[str, int], str]) -> None:
    """Writes down plan, scenarios and thresholds before any attack runs."""
    announced = {
        "plan": resolved.plan.model_dump(mode="json"),
        "thresholds": asdict(THRESHOLDS),
        "thresholds_digest": THRESHOLDS.digest(),
        "scenarios": {f"{name} seed {seed}": digest for (name, seed), digest in identities.items()},
        "files": {
            written: {"at": str(file), "digest": digest_over(sources_of(file))}
            for written, file in resolved.files.items()
        },
    }
    write_atomically(store.root / "plan.json", json.dumps(announced, indent=1) + "\n")


def results_of(resolved: Resolved, engine: Engine, found: Summary, *, command: str, duration: float) -> Results:
    """All that `results.json` holds of a plan that was computed to its end, with the answer of the plan's gate."""
    kinds = ("scenarios", "defenses", "attacks", "mergers")
    pipelines = {kind: resolved.pipelines(kind) for kind in kinds}
    raised = {flag for verdict in found.verdicts for flag in verdict.flags}
    results = Results(
        schema=2,
        plan=resolved.plan.model_dump(mode="json"),
        command=command,
        environment={
            "redteam": version("merge-redteam"),
            "engine": engine_digest(),
            "commit": _commit(),
            "date": datetime.now(UTC).strftime("%Y-%m-%d"),
            **({} if engine.cached else {"duration": round(duration, 1)}),  # of a part of it says nothing of the whole
            "python": platform.python_version(),
            **versions(),
            "system": platform.system(),
            "machine": platform.machine(),
            "device": engine.device,
            "threads": 1,
        },
        thresholds={**asdict(THRESHOLDS), "digest": THRESHOLDS.digest()},
        grounds=found.grounds,
        cells=found.cells,
        subjects=found.subjects,
        figures=found.figures,
        by_merger=found.by_merger,
        controls=found.controls,
        verdicts=found.verdicts,
        over_victims=found.over_victims,
        whole=found.whole,
        beside=found.beside,
        flags={name: flag for name, flag in FLAGS.items() if name in raised},
        threats={name: threat.words for name, threat in resolved.threats.items()},
        about={
            kind.removesuffix("s"): {text: pipeline.summary for text, pipeline in pipelines[kind].items()}
            for kind in kinds
        },
        settings=_as_written(
            {
                kind.removesuffix("s"): {
                    text: [dict(link.settings) for link in p.links] for text, p in pipelines[kind].items()
                }
                for kind in kinds
            }
        ),
        gauntlets=_members(resolved.gauntlets),
        merger_gauntlets=_members(resolved.merger_gauntlets),
        claims={
            text: " ".join(claims)
            for text, pipeline in pipelines["defenses"].items()
            if (claims := [link.spec.claim for link in pipeline.links if link.spec.claim])
        },
        untested=(
            *engine.design.same_seeds,
            *found.left_out,
            *unfitting(engine.unfitting, resolved.plan.memory),
            *limitations(resolved),
        ),
        coverage=found.coverage,
        computed=engine.counts,
    )
    if not resolved.plan.fail_on:
        return results
    return results.model_copy(update={"gate": gate(results.told, resolved.plan.fail_on, results.figures)})


def _commit() -> str:
    """The commit that this program is a checkout of; empty where it is none."""
    here = Path(__file__).parent
    try:
        asked = subprocess.run(
            ["git", "-C", str(here), "rev-parse", "--short=12", "HEAD"], capture_output=True, text=True, timeout=5
        )
    except (OSError, subprocess.TimeoutExpired):
        return ""
    return asked.stdout.strip() if asked.returncode == 0 else ""


def _members(gauntlets: Mapping[str, Ensemble]) -> dict[str, tuple[str, ...]]:
    return {name: tuple(member.text for member in one.members) for name, one in gauntlets.items()}


@contextmanager
def _told(observer: Observer, plan: Plan, folder: Path) -> Iterator[list[Results]]:
    """Tells of beginning and end, however it ends; the results are put into the list."""
    found: list[Results] = []
    observer.started(plan, folder)
    try:
        yield found
    finally:
        observer.finished(found[0] if found else None)


def _as_written(values: Any) -> Any:
    """As JSON gives it back, so that results are the same in memory and from their file."""
    return json.loads(json.dumps(values))


@contextmanager
def alone_in(root: Path) -> Iterator[None]:
    """Keeps other runs out of the folder; the system frees the lock however this process ends."""
    from filelock import FileLock, Timeout

    lock = FileLock(root / ".lock", timeout=0)
    try:
        lock.acquire()
    except Timeout:
        raise BadInput(f"Another run is writing to {root}; wait for it, or name another folder with --out.") from None
    try:
        if living_shards(root):
            raise BadInput(f"Shards are writing to {root}; wait for them, or name another folder with --out.")
        yield
    finally:
        lock.release()
