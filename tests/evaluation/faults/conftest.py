"""Runs on the tiny world, all in one folder for each process, so that what two plans share is computed once."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest

from redteam.evaluation.results import Results, Verdict
from redteam.evaluation.run import run
from redteam.plugins.reference import Reference

HERE = Path(__file__).parent
ANEW = "train-anew:steps=120,rate=0.01,epsilon=1e-8"
"""How an owner would train in this world, so that the ceiling can be reached."""
LINE = "imitation:steps=2"
"""What runs beside every verdict, as briefly as can be."""


class Bench:
    """Names plugins of this folder, and runs small plans with them."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def of(self, file: str, name: str, **settings: Any) -> str:
        """A plugin of a file here, as plans name it."""
        return str(Reference(f"{HERE / file}@{name}", settings))

    def lock(self, name: str, **settings: Any) -> str:
        return self.of("locks.py", name, **settings)

    def attack(self, name: str, **settings: Any) -> str:
        return self.of("cripples.py", name, **settings)

    def run(
        self,
        defenses: Sequence[str],
        attacks: Sequence[str] = (),
        *,
        world: Mapping[str, Any] | None = None,
        **plan: Any,
    ) -> Results:
        """What is found of some defenses."""
        whole = {
            "defenses": tuple(defenses),
            "attacks": (*attacks, ANEW, LINE),
            "mergers": ("task-arithmetic",),
            **plan,
        }
        whole.setdefault("scenarios", (self.of("worlds.py", "world", **(world or {})),))
        return run(whole, out=self.folder, workers=0)

    def verdict(self, defense: str, attacks: Sequence[str] = (), **plan: Any) -> Verdict:
        """The one verdict on a defense."""
        (found,) = self.run((defense,), attacks, **plan).verdicts
        return found


@pytest.fixture(scope="session")
def bench(tmp_path_factory: pytest.TempPathFactory) -> Bench:
    return Bench(tmp_path_factory.mktemp("faults") / "run")
