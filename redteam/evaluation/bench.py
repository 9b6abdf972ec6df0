"""What a step is computed with: its scenario, its plugins, its inputs and its random streams."""

from __future__ import annotations

import itertools
from collections.abc import Mapping
from contextlib import ExitStack
from dataclasses import replace
from functools import cached_property, lru_cache
from pathlib import Path
from typing import Any

from redteam.checkpoint import Checkpoint, in_memory
from redteam.checkpoint.save import write
from redteam.devices import CPU
from redteam.errors import PluginFault
from redteam.evaluation.runner.store import Store
from redteam.evaluation.steps import Step
from redteam.key import Key
from redteam.plugins.reference import Reference
from redteam.plugins.registry import SCENARIOS, LoadedPlugin, Registry
from redteam.tasks import Scenario, Split

_HELD = 2**28
"""Bytes up to which a checkpoint is held in memory; of a larger one, tensors are read from a file when needed."""

How = tuple[str, Mapping[str, Any], str]
"""Name, settings and source digest of a plugin."""


class Bench:
    """The scenario, the plugins and the inputs of one step."""

    def __init__(self, step: Step, store: Store, scenario: Scenario | None = None) -> None:
        self.step, self.store = step, store
        self._open, self._count = ExitStack(), itertools.count()
        self.seed = int(step.settings["seed"])
        self.device = str(step.settings.get("device", CPU))
        self.split: Split = step.settings.get("split", "test")  # on which it is scored; a search tunes on another
        if scenario is not None:
            self.scenario = scenario
            return
        reference = scenario_reference(step.how["scenario"], self.seed)
        self.scenario = load_scenario(reference)
        if scenario_digest(reference) != step.settings["scenario"]:
            raise PluginFault(
                f"The scenario {reference} gives other models or data than when this run was planned; a scenario is a "
                "function of its settings alone. Name another folder with --out."
            )
        if self.device != CPU:
            self.scenario = _on_device(reference, self.device)

    @property
    def victim(self) -> Checkpoint:
        return self.scenario.experts[self.scenario.victim]

    @property
    def unlocked(self) -> Checkpoint:
        """The victim as it is before the lock: prepared for it, where the pipeline does that first."""
        return self.input("prepared") if "prepared" in self.step.inputs else self.victim

    def plugins(self, registry: Registry[Any], what: str) -> list[LoadedPlugin[Any]]:
        """The links of a pipeline, loaded by reference with their settings.

        Raises:
            PluginFault: If a source is no longer what it was when the run was planned.
        """
        return [_loaded(registry, how) for how in self.step.how.get(what, ())]

    @property
    def key(self) -> Key:
        """The defender's key in this step."""
        key = Key.derive(seed=self.seed, index=int(self.step.settings.get("key", 0)), name="defender")
        stream = self.step.settings.get("stream", "")
        return key.child(stream) if stream else key

    def stream(self, name: str, *, index: int = 0) -> Key:
        """The random streams of something that is not the defender's."""
        return Key.derive(seed=self.seed, index=index, name=name)

    def input(self, role: str) -> Checkpoint:
        return _there(self.store.artefact(self.step.inputs[role]), self.device)

    def kept(self, returned: Any) -> Any:
        """A checkpoint with every tensor computed once, in memory where it is small, else in a file of this step's.

        Args:
            returned: Perhaps an overlay, whose tensors are then computed one at a time; what is no checkpoint is given
                back. Tensors that a plugin made on the CPU are moved to the step's device.
        """
        if not isinstance(returned, Checkpoint):
            return returned
        if returned.nbytes > _HELD:
            place = self._scratch / str(next(self._count))
            write(returned, place, durable=False)
            returned = Checkpoint.open(place)
        return _there(returned, self.device)

    def close(self) -> None:
        """Drops what was kept in files."""
        self._open.close()

    @cached_property
    def _scratch(self) -> Path:
        return self._open.enter_context(self.store.scratch())

    def record(self, role: str) -> Any:
        outcome = self.store.get(self.step.inputs[role])
        assert outcome is not None
        return outcome.record


def _there(checkpoint: Checkpoint, device: str) -> Checkpoint:
    """On a device, in memory where it is small; a large one is read, and moved, a tensor at a time."""
    if device != CPU:
        checkpoint = checkpoint.cast(device=device)
    held: Checkpoint = checkpoint if checkpoint.nbytes > _HELD else in_memory(checkpoint)
    return held


def scenario_reference(how: How, seed: int) -> str:
    """The text under which a scenario is loaded for a seed."""
    name, settings, _ = how
    return str(Reference(name, {**settings, "seed": seed}))


@lru_cache(maxsize=8)
def load_scenario(reference: str) -> Scenario:
    """A scenario, loaded once per process.

    Args:
        reference: Name and settings, the seed among them.

    Raises:
        PluginFault: If the plugin returns something else.
    """
    made = SCENARIOS.load(reference)()
    if not isinstance(made, Scenario):
        raise PluginFault(
            f"The scenario {reference} returned a {type(made).__name__}; expected a redteam.tasks.Scenario."
        )
    return made


@lru_cache(maxsize=2)
def _on_device(reference: str, device: str) -> Scenario:
    """A scenario whose models are on a device; its data stay on the CPU, where there is room for them."""
    made = load_scenario(reference)
    experts = {name: _there(expert, device) for name, expert in made.experts.items()}
    return replace(made, base=_there(made.base, device), experts=experts)


@lru_cache(maxsize=8)
def scenario_digest(reference: str) -> str:
    """The digest of its weights and data."""
    return load_scenario(reference).digest()


def _loaded(registry: Registry[Any], how: How) -> LoadedPlugin[Any]:
    name, settings, digest = how
    plugin = registry.load(Reference(name, settings))
    if plugin.source_digest != digest:
        raise PluginFault(
            f"The source of the {registry.kind} {plugin.spec.name!r} has changed since the run was planned; run the "
            "same command again."
        )
    return plugin
