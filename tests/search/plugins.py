"""Attacks of known strength on the toy scenario, some that fail, and a scenario whose scoring data cannot be read."""

from __future__ import annotations

import importlib.util
import sys
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Annotated, Any, Literal

import numpy as np
import pytest

from redteam.checkpoint import Checkpoint
from redteam.errors import Inapplicable
from redteam.plugins.contracts import Needs, attack, scenario
from redteam.plugins.settings import Range
from redteam.symmetry import GeneralLinear, fit_gauges
from redteam.tasks import Classification, Scenario
from redteam.views import AttackerView


@attack("qk-part", needs=Needs.ANCHOR)
def qk_part(view: AttackerView, *, strength: Annotated[float, Range(0.5, 2.0)] = 1.0) -> Checkpoint:
    """Takes the lock off queries and keys; alone it is not enough."""
    return fit_gauges(view.protected, view.anchor, ("qk",), GeneralLinear())


@attack("vo-part", needs=Needs.ANCHOR, targets=("mergelock",))
def vo_part(view: AttackerView, *, way: Literal["a", "b"] = "a", much: bool = True) -> Checkpoint:
    """Takes the lock off values and outputs; alone it is not enough."""
    return fit_gauges(view.protected, view.anchor, ("vo",), GeneralLinear())


@attack("idle")
def idle(view: AttackerView, *, anything: float = 1.0, path: tuple[float, float] = (0.0, 1.0)) -> Checkpoint:
    """Does nothing; its settings say nothing of where to look."""
    return view.protected


@attack("fails")
def fails(view: AttackerView) -> Checkpoint:
    """Fails like any program."""
    raise ValueError("the sum does not add up")


@attack("not-for-this")
def not_for_this(view: AttackerView) -> Checkpoint:
    """Says that it does not apply."""
    raise Inapplicable("It is for models of another kind.")


@attack("greedy", needs=Needs.SAMPLES)
def greedy(view: AttackerView) -> Checkpoint:
    """Needs what weights-only does not grant."""
    return view.protected


@attack("ceiling", role="ceiling", needs=Needs.KEY | Needs.CODE)
def ceiling(view: AttackerView) -> Checkpoint:
    """Is no attack that could be searched with."""
    return view.unlock(view.key)


@dataclass(frozen=True)
class Sealed(Classification):
    """A task whose scoring data must not be asked for."""

    def scores(self, module: Any, split: Any = "test") -> np.ndarray[Any, np.dtype[np.bool_]]:
        assert split != "test", "the scoring data were read"
        return super().scores(module, split)

    def predictions(self, module: Any, split: Any) -> np.ndarray[Any, np.dtype[np.int64]]:
        assert split != "test", "the scoring data were read"
        return super().predictions(module, split)

    def inputs_of(self, split: Any) -> Any:
        assert split != "test", "the scoring data were read"
        return super().inputs_of(split)

    def batches(self, split: Any, size: int, generator: np.random.Generator) -> Any:
        assert split != "test", "the scoring data were read"
        return super().batches(split, size, generator)


@scenario("sealed")
def sealed(*, seed: int = 0) -> Scenario:
    """The toy scenario, which may be tuned on and not scored on."""
    made = _toy(seed)
    tasks = {
        name: Sealed(name, task.chance, task.inputs, task.labels)  # type: ignore[attr-defined]
        for name, task in made.tasks.items()
    }
    return replace(made, tasks=tasks)


@scenario("roomy")
def roomy(*, seed: int = 0) -> Scenario:
    """The toy scenario with validation data enough to tell a lock that falls from one that holds."""
    return _toy(seed, validation=500)


def _toy(seed: int, validation: int = 100) -> Scenario:
    name = "toy_for_search"
    if name not in sys.modules:
        file = Path(__file__).parent.parent / "evaluation" / "toy.py"
        found = importlib.util.spec_from_file_location(name, file)
        assert found is not None
        assert found.loader is not None
        sys.modules[name] = importlib.util.module_from_spec(found)
        found.loader.exec_module(sys.modules[name])
    module = sys.modules[name]
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(module.SIZES, "validation", validation)
        made: Scenario = module.toy(seed=seed)
    return made
