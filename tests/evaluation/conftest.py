"""Runs of the toy scenario, each done once for all tests that look at it."""

from __future__ import annotations

import json
import os
import shutil
import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from filelock import FileLock

from redteam.evaluation.results import Cell, Control, Figure, Results, Verdict
from redteam.evaluation.run import run
from redteam.evaluation.verdict import Evidence, decide
from redteam.events import Observer
from redteam.plugins.reference import Reference
from redteam.plugins.source import locate

HERE = Path(__file__).parent
LINE = "imitation:steps=2"
"""What runs beside every verdict, as briefly as can be."""
REDTEAM = Path(sys.executable).with_name("redteam")


@dataclass(frozen=True)
class Finished:
    """A run's folder and what it found."""

    folder: Path
    results: Results

    def cell(self, defense: str, attack: str) -> Cell:
        (found,) = (c for c in self.results.cells if (c.defense, c.attack) == (defense, attack))
        return found

    def theft(self, defense: str, attack: str) -> float:
        return float(self.cell(defense, attack).scores["theft"])

    def verdict(self, defense: str) -> Verdict:
        (found,) = (v for v in self.results.verdicts if v.defense == defense)
        return found

    def controls(self, control: str, attack: str) -> list[Control]:
        return [c for c in self.results.controls if (c.control, c.attack) == (control, attack)]

    def figure(self, defense: str, choice: str, attack: str | None = None) -> Figure:
        """The row of a choice, or with an attack that attack's own."""
        rows = (f for f in self.results.figures if (f.defense, f.choice) == (defense, choice))
        (found,) = (f for f in rows if attack in (None, f.attack))
        return found

    def decide_anew(self) -> None:
        """Every verdict follows from the rows of `results.json`, and from nothing else."""
        results = Results.read(self.folder) if (self.folder / "results.json").exists() else self.results
        for verdict in results.verdicts:
            decision = decide(Evidence.of(results, verdict.place))
            assert (decision.word, decision.reason) == (verdict.verdict, verdict.reason)
            assert (decision.flags, decision.rests_on) == (verdict.flags, verdict.rests_on)
            assert decision.wanted == (), "all that it rests on was computed"


class Counting(Observer):
    """Remembers what was planned, what was computed and how it ended, and what was decided."""

    def __init__(self) -> None:
        self.plans: list[tuple[int, int, int, str]] = []
        self.settlements: list[tuple[str, str]] = []
        self.counts: list[tuple[int, int]] = []
        self.verdicts: list[Verdict] = []

    def planned(self, added: int, total: int, cached: int, why: str) -> None:
        self.plans.append((added, total, cached, why))

    def settled(self, label: str, status: str, reason: str, done: int, total: int) -> None:
        self.settlements.append((label, status))
        self.counts.append((done, total))

    def decided(self, verdict: Verdict) -> None:
        self.verdicts.append(verdict)

    @property
    def labels(self) -> list[str]:
        return [label for label, _ in self.settlements]


class Toys:
    """Plans on the toy scenario, and how to run and compare them."""

    Counting = Counting
    redteam = REDTEAM

    def plan(self, defenses: tuple[str, ...], attacks: tuple[str, ...], **rest: Any) -> dict[str, Any]:
        asked = (*attacks, LINE)
        made = {"scenarios": [self.named("toy", "toy.py")], "defenses": defenses, "attacks": asked}
        return {**made, "mergers": ("task-arithmetic",), **rest}

    def small(self) -> dict[str, Any]:
        """Some thirty computations."""
        return self.plan(("rotation",), ("procrustes",))

    def named(self, name: str, file: str | Path = "plugins.py") -> str:
        return str(Reference(f"{HERE / file}@{name}"))

    def run(self, plan: Mapping[str, Any], out: Path, **options: Any) -> Finished:
        return Finished(out, run(plan, out=out, **{"workers": 0, **options}))

    def read(self, folder: Path) -> Finished:
        return Finished(folder, Results.read(folder))

    def write(self, plan: Mapping[str, Any], file: Path) -> Path:
        """The plan as a TOML file, with the plugin files that it may name beside it."""
        for plugins in HERE.glob("*.py"):
            if not plugins.name.startswith(("test_", "conftest")):
                shutil.copy(plugins, file.parent)
        plan = json.loads(_bare(json.dumps(plan)))
        lines = (f"{key} = {json.dumps(value)}" for key, value in plan.items())
        file.write_text("\n".join(lines) + "\n")
        return file

    def numbers(self, results: Results) -> Any:
        """Everything but times, memory, the command, and in which folder the toys lie."""
        return _timeless(json.loads(_bare(results.model_dump_json())))


@pytest.fixture
def ship(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[str, str], Path]:
    """Puts a stranger's package that ships a gauntlet, `name` with this text, where it is found; gives the file."""

    def shipped(name: str, text: str) -> Path:
        package, info = tmp_path / "site/stranger", tmp_path / "site/stranger-1.0.dist-info"
        package.mkdir(parents=True)
        info.mkdir()
        (package / "__init__.py").write_text("raise RuntimeError")
        file = package / f"{name}.toml"
        file.write_text(text)
        (info / "METADATA").write_text("Metadata-Version: 2.1\nName: stranger\nVersion: 1.0\n")
        (info / "entry_points.txt").write_text(f"[redteam.gauntlets]\n{name} = stranger:{name}.toml\n")
        monkeypatch.syspath_prepend(str(tmp_path / "site"))
        locate.cache_clear()
        return file

    return shipped


def _bare(text: str) -> str:
    return text.replace(f"{HERE}/", "")


_TIMED = {"cost", "command", "duration", "megabytes", "price", "broke_first"}
"""What depends on how long things took; which attack is the cheapest does."""


def _timeless(value: Any) -> Any:
    if isinstance(value, dict):
        return {k: _timeless(v) for k, v in value.items() if k not in _TIMED and "seconds" not in k}
    return [_timeless(item) for item in value] if isinstance(value, list) else value


@pytest.fixture(scope="session")
def toys() -> Toys:
    return Toys()


@pytest.fixture(scope="session")
def together(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder that all processes of this test session share."""
    base = tmp_path_factory.getbasetemp()
    return base.parent if "PYTEST_XDIST_WORKER" in os.environ else base


@pytest.fixture(scope="session")
def once(together: Path, toys: Toys) -> Callable[..., Finished]:
    """Runs a plan the first time it is asked for; whoever comes second finds everything cached."""

    def done(name: str, plan: Mapping[str, Any], **options: Any) -> Finished:
        with FileLock(together / f"{name}.lock"):
            return toys.run(plan, together / name, **options)

    return done


@pytest.fixture(scope="session")
def honest(once: Callable[..., Finished], toys: Toys) -> Finished:
    """The plan `quick`, on toys."""
    defenses = ("none", "permutation", "rotation", "mergelock")
    return once("honest", toys.plan(defenses, ("graft", "hungarian", "procrustes", "gauge-fit")))


@pytest.fixture(scope="session")
def checked(once: Callable[..., Finished], toys: Toys, honest: Finished, together: Path) -> Finished:
    """The same with all controls that there are; it starts with what the other run has finished."""
    for what in ("cells", "shared"):
        shutil.copytree(honest.folder / what, together / "checked" / what, dirs_exist_ok=True)
    return once("checked", {**honest.results.plan, "controls": "all"})


@pytest.fixture(scope="session")
def environment(together: Path) -> dict[str, str]:
    """For real processes: what the first one compiles serves the others."""
    kept = {name: value for name, value in os.environ.items() if name != "PYTHONDONTWRITEBYTECODE"}
    return kept | {"PYTHONPYCACHEPREFIX": str(together / "compiled"), "OMP_NUM_THREADS": "1"}
