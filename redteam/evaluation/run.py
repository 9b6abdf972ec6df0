"""The main job: a plan in, results out, everything finished kept on the way."""

from __future__ import annotations

import json
import platform
from collections import Counter
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any, Protocol

from redteam.errors import BadInput
from redteam.evaluation.digest import engine_digest, versions
from redteam.evaluation.execute import Outcome
from redteam.evaluation.findings import Findings
from redteam.evaluation.graph import Graph
from redteam.evaluation.judge import Judge
from redteam.evaluation.layout import build
from redteam.evaluation.loaded import Loaded
from redteam.evaluation.nodes import Node
from redteam.evaluation.plan import Plan
from redteam.evaluation.prepare import prepare
from redteam.evaluation.results import Results
from redteam.evaluation.rounds import carry_out
from redteam.evaluation.store import Store, write_atomically
from redteam.evaluation.thresholds import THRESHOLDS
from redteam.evaluation.untested import untested
from redteam.evaluation.verdict import FLAGS
from redteam.plugins.shipped import shipped_file


class Observer(Protocol):
    """Who is told how a run goes on."""

    def started(self, plan: Plan, folder: Path) -> None:
        """The plan can be run; results and finished cells go to this folder, which is ours alone from here on."""

    def preparing(self, scenario: str, seed: int) -> None:
        """A scenario is about to be loaded, or made where it isn't there yet."""

    def planned(self, graph: Graph, cached: frozenset[str]) -> None:
        """The cells are laid out; these are there already, though some may have to make their checkpoint again."""

    def settled(self, node: Node, outcome: Outcome) -> None:
        """A cell is done, or has failed."""

    def finished(self, results: Results | None) -> None:
        """The run is over and `results.json` is written; there are no results where it was interrupted or failed."""


class Silent:
    """Tells nobody."""

    def started(self, plan: Plan, folder: Path) -> None: ...

    def preparing(self, scenario: str, seed: int) -> None: ...

    def planned(self, graph: Graph, cached: frozenset[str]) -> None: ...

    def settled(self, node: Node, outcome: Outcome) -> None: ...

    def finished(self, results: Results | None) -> None: ...


class Observers:
    """Tells several, in this order."""

    def __init__(self, *observers: Observer) -> None:
        self.observers = observers

    def started(self, plan: Plan, folder: Path) -> None:
        for observer in self.observers:
            observer.started(plan, folder)

    def preparing(self, scenario: str, seed: int) -> None:
        for observer in self.observers:
            observer.preparing(scenario, seed)

    def planned(self, graph: Graph, cached: frozenset[str]) -> None:
        for observer in self.observers:
            observer.planned(graph, cached)

    def settled(self, node: Node, outcome: Outcome) -> None:
        for observer in self.observers:
            observer.settled(node, outcome)

    def finished(self, results: Results | None) -> None:
        for observer in self.observers:
            observer.finished(results)


@dataclass(frozen=True)
class Preview:
    """What a run would do.

    Attributes:
        cells: Pairings that the results would hold.
        computed: Kind of stage → how many there are.
        further: How many more a gauntlet may need, at most.
        cached: How many of all are finished.
        unprepared: Scenarios and seeds that this folder has not seen, so that nothing is known of their cells.
        megabytes: What the folder holds now.
    """

    cells: int
    computed: Mapping[str, int]
    further: int
    cached: int
    unprepared: tuple[str, ...]
    megabytes: float


def find_plan(plan: Plan | Mapping[str, Any] | str | Path) -> tuple[Plan, Path]:
    """A plan, and the folder against which its relative paths are read.

    Args:
        plan: A plan, its values, the name of one that ships, or a TOML file (its name ends in .toml).

    Raises:
        RedteamError: If there is none, or it cannot be used.
    """
    if isinstance(plan, Plan):
        return plan, Path()
    if isinstance(plan, Mapping):
        return Plan.of(dict(plan)), Path()
    path = Path(plan)
    if path.suffix == ".toml":
        return Plan.read(path), path.parent
    file = shipped_file("plan", str(plan))
    return Plan.read(file), file.parent


def run_folder(plan: Plan, out: str | Path | None) -> Path:
    """Where a run's results and finished cells go: `out`, or `runs/NAME`."""
    return Path(out) if out is not None else Path("runs") / plan.name


def run(
    plan: Plan | Mapping[str, Any] | str | Path = "quick",
    *,
    out: str | Path | None = None,
    workers: int = 2,
    observer: Observer | None = None,
    folder: Path | None = None,
    command: str = "",
) -> Results:
    """Runs a plan and writes `results.json`. The same call again computes only what is missing.

    Args:
        plan: See `find_plan`.
        out: The folder for results and finished cells; `runs/NAME` by default.
        workers: Processes; 0 runs in this one, without time limits.
        observer: Who is told how it goes on; `Observers` for several.
        folder: Where relative paths of plugin files start; by default the plan's own folder.
        command: The command that repeats the run, for the report.

    Returns:
        What was found, the last plan's cells alone.

    Raises:
        RedteamError: If the plan or a plugin's name or setting is wrong, or nothing can be written to `out`.
    """
    observer = observer or Silent()
    plan, home = find_plan(plan)
    loaded = Loaded.of(plan, folder or home)
    store = Store(run_folder(plan, out))
    with alone_in(store.root), _told(observer, plan, store.root) as found:
        identities = prepare(loaded, workers=workers, tell=observer.preparing)
        graph = build(loaded, identities)
        done: dict[str, Outcome] = {name: record for name in graph.nodes if (record := store.get(name)) is not None}
        store.clear_work(keep=frozenset(graph.nodes))
        _announce(store, loaded, identities, graph)
        graph = carry_out(graph, done, store, workers=workers, time_limit=plan.time_limit, observer=observer)
        results = _results(loaded, graph, done, command)
        results.write(store.root / "results.json")
        store.clear_work()
        found.append(results)
    return results


def preview(
    plan: Plan | Mapping[str, Any] | str | Path, *, out: str | Path | None = None, folder: Path | None = None
) -> Preview:
    """What `run` would compute, without computing or writing anything."""
    plan, home = find_plan(plan)
    loaded = Loaded.of(plan, folder or home)
    root = run_folder(plan, out)
    known = _announced(root)
    identities = {where: known.get(f"{where[0]} seed {where[1]}", "") for where in loaded.places}
    graph = build(loaded, identities)
    asked = graph.only(graph.cells).nodes
    finished = {path.stem for path in (root / "cells").glob("*.json")} if root.is_dir() else set()
    return Preview(
        cells=sum(cell.group == "cell" for cell in graph.cells),
        computed=dict(Counter(node.kind for node in asked.values())),
        further=len(graph.nodes) - len(asked),
        cached=len(finished & set(graph.nodes)),
        unprepared=tuple(f"{name} seed {seed}" for (name, seed), identity in identities.items() if not identity),
        megabytes=sum(path.stat().st_size for path in root.rglob("*") if path.is_file()) / 1e6
        if root.is_dir()
        else 0.0,
    )


def _announce(store: Store, loaded: Loaded, identities: Mapping[tuple[str, int], str], graph: Graph) -> None:
    """Writes down plan, scenarios and thresholds before any attack runs."""
    announced = {
        "plan": loaded.plan.model_dump(mode="json"),
        "thresholds": asdict(THRESHOLDS),
        "thresholds_digest": THRESHOLDS.digest(),
        "scenarios": {**_announced(store.root), **{f"{name} seed {seed}": d for (name, seed), d in identities.items()}},
        "cells": len(graph.nodes),
    }
    write_atomically(store.root / "plan.json", json.dumps(announced, indent=1) + "\n")


def _announced(root: Path) -> dict[str, str]:
    try:
        return dict(json.loads((root / "plan.json").read_text(encoding="utf-8"))["scenarios"])
    except (OSError, ValueError, KeyError, TypeError):
        return {}


def _results(loaded: Loaded, graph: Graph, done: Mapping[str, Outcome], command: str) -> Results:
    defenses = loaded.chains("defenses")
    targets = {
        name for chain in loaded.chains("attacks").values() for link in chain.links for name in link.spec.targets
    }
    unprotected = frozenset(text for text, chain in defenses.items() if not chain.any(lambda spec: spec.protects))
    tried = frozenset(text for text, chain in defenses.items() if chain.any(lambda spec: spec.name in targets))
    published = frozenset(text for text, chain in defenses.items() if chain.any(lambda spec: bool(spec.paper)))
    found = Findings(
        Judge(graph, done), unprotected=unprotected, adaptive=tried | unprotected, published=published - unprotected
    )
    raised = {flag for verdict in found.verdicts for flag in verdict.flags}
    return Results(
        schema=1,
        plan=loaded.plan.model_dump(mode="json"),
        command=command,
        environment={
            "redteam": version("merge-redteam"),
            "engine": engine_digest(),
            "python": platform.python_version(),
            **versions(),
            "system": platform.system(),
            "machine": platform.machine(),
            "device": "cpu",
            "threads": 1,
        },
        thresholds={**asdict(THRESHOLDS), "digest": THRESHOLDS.digest()},
        grounds=found.grounds,
        cells=found.cells,
        figures=found.figures,
        controls=found.controls,
        verdicts=found.verdicts,
        flags={name: flag for name, flag in FLAGS.items() if name in raised},
        threats={name: threat.words for name, threat in loaded.threats.items()},
        about={
            kind.removesuffix("s"): {text: chain.summary for text, chain in loaded.chains(kind).items()}
            for kind in ("scenarios", "defenses", "attacks", "mergers")
        },
        settings=_as_written(
            {
                kind.removesuffix("s"): {
                    text: [dict(link.settings) for link in c.links] for text, c in loaded.chains(kind).items()
                }
                for kind in ("scenarios", "defenses", "attacks", "mergers")
            }
        ),
        gauntlets={name: tuple(m.text for m in one.members) for name, one in loaded.gauntlets.items()},
        claims={
            text: " ".join(claims)
            for text, chain in defenses.items()
            if (claims := [link.spec.claim for link in chain.links if link.spec.claim])
        },
        untested=tuple(untested(loaded)),
        coverage=found.coverage,
    )


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
    """Keeps a second run out of the folder; the system frees the lock however this process ends."""
    from filelock import FileLock, Timeout

    lock = FileLock(root / ".lock", timeout=0)
    try:
        lock.acquire()
    except Timeout:
        raise BadInput(f"Another run is writing to {root}; wait for it, or name another folder with --out.") from None
    try:
        yield
    finally:
        lock.release()
