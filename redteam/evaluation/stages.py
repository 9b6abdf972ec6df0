"""What a cell computes. Runs in a worker, on one thread; everything it needs it loads from the store and by reference.

Each stage takes the cell and a `Bench` and returns plain values, which become the cell's record.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
import torch

from redteam.anatomy import anatomy_of
from redteam.checkpoint import Checkpoint
from redteam.errors import PluginFault
from redteam.evaluation.bits import Bits, pack
from redteam.evaluation.nodes import Node
from redteam.evaluation.store import Store
from redteam.key import Key
from redteam.plugins.reference import Reference
from redteam.plugins.registry import ATTACKS, DEFENSES, MERGERS, SCENARIOS, LoadedPlugin, Registry
from redteam.plugins.returned import check_returned
from redteam.symmetry import GROUPS, tied_cost
from redteam.tasks import Scenario, predict
from redteam.threat import threat_model
from redteam.views import AttackerView, DefenderView, MergerView, unlocked

DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}
_SEEN = 200  # of each own task, the inputs on which an attacker compares a merge with the protected model
_PROBES = 64  # inputs on which the function is compared


class Bench:
    """The scenario, the plugins and the inputs of one cell."""

    def __init__(self, node: Node, store: Store) -> None:
        self.node, self.store = node, store
        self.seed, self.key_index = int(node.settings["seed"]), int(node.settings.get("key", 0))
        name, settings = node.how["scenario"]
        self.scenario = load_scenario(str(Reference(name, {**settings, "seed": self.seed})))

    @property
    def victim(self) -> Checkpoint:
        return self.scenario.experts[self.scenario.victim]

    def plugins(self, registry: Registry[Any], what: str) -> list[LoadedPlugin[Any]]:
        """The links of a chain, loaded by reference with their settings."""
        return [registry.load(Reference(name, settings)) for name, settings in self.node.how.get(what, ())]

    @property
    def key(self) -> Key:
        """The defender's key in this cell."""
        return Key.derive(seed=self.seed, index=self.key_index, name="defender")

    def input(self, role: str) -> Checkpoint:
        return self.store.artefact(self.node.inputs[role])

    def record(self, role: str) -> dict[str, Any]:
        record = self.store.get(self.node.inputs[role])
        assert record is not None
        return record["result"]  # type: ignore[no-any-return]


def run_stage(node: Node, store: Store) -> dict[str, Any]:
    """Computes one cell on one thread.

    Returns:
        The stage's result, as plain values.
    """
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        return _STAGES[node.kind](node, Bench(node, store))
    finally:
        torch.set_num_threads(threads)


def _alone(node: Node, bench: Bench) -> dict[str, Any]:
    scenario = bench.scenario
    experts = {name: scenario.experts[name].module() for name in scenario.experts}
    return {
        "digest": scenario.digest(),
        "victim": scenario.victim,
        "chance": {name: task.chance for name, task in scenario.tasks.items()},
        "experts": {name: pack(scenario.tasks[name].correct(experts[name])) for name in experts},
        "validation": {
            name: float(scenario.tasks[name].correct(experts[name], "validation").mean())
            for name in scenario.companions
        },
        "base": {name: pack(correct) for name, correct in _everywhere(scenario, scenario.base).items()},
    }


def _tune(node: Node, bench: Bench) -> dict[str, Any]:
    scenario, alone = bench.scenario, bench.record("alone")
    table = []
    for settings in node.settings["grid"]:
        merged = _merged(bench, None, settings)
        seen = {
            name: float(scenario.tasks[name].correct(scenario.dressed(merged, name).module(), "validation").mean())
            for name in scenario.companions
        }
        table.append([settings, _mean_score(seen, alone)])
    best = max(range(len(table)), key=lambda index: table[index][1])
    return {"settings": table[best][0], "table": table}


def _lock(node: Node, bench: Bench) -> dict[str, Any]:
    scenario, victim = bench.scenario, bench.victim
    source = victim.fresh(_stream(bench, "fresh victim")) if node.settings.get("fresh") else victim
    started = time.perf_counter()
    with _memory() as memory:
        protected = _protected(node, bench, source)
    seconds = time.perf_counter() - started
    bench.store.put_artefact(node.name, protected)
    fidelity = {}
    if not node.settings.get("fresh"):
        task = scenario.tasks[scenario.victim]
        for name, dtype in DTYPES.items():
            fidelity[name] = {
                "protected": pack(task.correct(protected.to(dtype).to(torch.float32).module())),
                "victim": pack(task.correct(victim.to(dtype).to(torch.float32).module())),
            }
    changed = [name for name in victim if name in protected and not torch.equal(victim[name], protected[name])]
    return {
        "changed": changed,
        "digest": protected.digest(),
        "tied_cost": _tied_costs(protected, scenario.base),
        "answers": _answers(scenario, protected),
        "fidelity": fidelity,
        "dtype": str(next(iter(victim.values())).dtype).removeprefix("torch."),
        "cost": {"seconds": seconds, "megabytes": memory.megabytes},
    }


def _attack(node: Node, bench: Bench) -> dict[str, Any]:
    scenario, protected, victim = bench.scenario, bench.input("lock"), bench.victim
    samples = 0
    started = time.perf_counter()
    with _memory() as memory:
        recovered = protected
        for attack in bench.plugins(ATTACKS, "attack"):
            view = _attacker_view(node, bench, recovered, attack.spec.name)
            recovered = check_returned(attack, recovered, _in_memory(attack(view)))
            samples += view.meter.samples
    seconds = time.perf_counter() - started
    bench.store.put_artefact(node.name, recovered)
    changed = bench.record("lock")["changed"]
    return {
        "digest": recovered.digest(),
        "residual": _residual(recovered, victim, scenario.base, changed),
        "tied_cost": _tied_costs(recovered, scenario.base),
        "change": _change(protected, recovered, _probes(scenario)),
        "cost": {"seconds": seconds, "megabytes": memory.megabytes, "labels": samples},
    }


def _merge(node: Node, bench: Bench) -> dict[str, Any]:
    scenario, tuned = bench.scenario, bench.record("tune")["settings"]
    victim = bench.input("victim") if "victim" in node.inputs else None
    started = time.perf_counter()
    merged = _merged(bench, victim, tuned)
    seconds = time.perf_counter() - started
    result: dict[str, Any] = {
        "tasks": {name: pack(correct) for name, correct in _everywhere(scenario, merged).items()},
        "cost": {"seconds": seconds},
    }
    result["seen"] = {
        "validation": {
            name: float(scenario.tasks[name].correct(scenario.dressed(merged, name).module(), "validation").mean())
            for name in scenario.companions
        },
        "answers": _answers(scenario, scenario.dressed(merged, scenario.victim)),
    }
    return result


_STAGES: Mapping[str, Callable[[Node, Bench], dict[str, Any]]] = {
    "alone": _alone,
    "tune": _tune,
    "lock": _lock,
    "attack": _attack,
    "merge": _merge,
}


@lru_cache(maxsize=2)
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


def _protected(node: Node, bench: Bench, source: Checkpoint) -> Checkpoint:
    settings = node.settings
    if "plant" in settings:
        kind, group = settings["plant"]
        view = DefenderView(source, bench.scenario.base, bench.key.child(f"plant {group} at {kind}"))
        planted: Checkpoint = _in_memory(view.lock((kind,), GROUPS[group]()))
        return planted
    if "defense" not in settings:
        return source
    for turn, defense in enumerate(bench.plugins(DEFENSES, "defense")):
        key = bench.key.child(f"{turn}/{defense.spec.name}")
        view = DefenderView(source, bench.scenario.base, key, bench.scenario.tasks[bench.scenario.victim])
        source = check_returned(defense, source, _in_memory(defense(view)))
    return source


def _attacker_view(node: Node, bench: Bench, protected: Checkpoint, name: str) -> AttackerView:
    scenario = bench.scenario
    defenses = list(enumerate(bench.plugins(DEFENSES, "defense")))

    def unlock(checkpoint: Checkpoint, key: Key) -> Checkpoint:
        for turn, defense in reversed(defenses):
            checkpoint = unlocked(checkpoint, defense, scenario.base, key.child(f"{turn}/{defense.spec.name}"))
        return checkpoint

    return AttackerView(
        protected,
        threat_model(node.settings["threat"]),
        Key.derive(seed=bench.seed, index=bench.key_index, name=f"attack {name}"),
        _anchor=scenario.base,
        _companions={task: scenario.experts[task] for task in scenario.companions},
        _own={task: scenario.tasks[task] for task in scenario.companions},
        _key=bench.key,
        _unlock=unlock,
    )


def _merged(bench: Bench, victim: Checkpoint | None, settings: Mapping[str, Any]) -> Checkpoint:
    scenario = bench.scenario
    merger = bench.plugins(MERGERS, "merger")[0]
    experts = {name: scenario.experts[name] for name in scenario.companions}
    if victim is not None:
        experts = {name: victim if name == scenario.victim else scenario.experts[name] for name in scenario.experts}
    view = MergerView(experts, scenario.base, Key.derive(seed=bench.seed, index=0, name=f"merger {merger.spec.name}"))
    merged = merger.function(view, **{**merger.settings, **settings})
    return check_returned(merger, scenario.base, _in_memory(merged))


def _everywhere(scenario: Scenario, shared: Checkpoint) -> dict[str, Bits]:
    return {name: task.correct(scenario.dressed(shared, name).module()) for name, task in scenario.tasks.items()}


def _answers(scenario: Scenario, wearing_the_victims_head: Checkpoint) -> list[int]:
    """Answers on inputs of the attacker's own tasks: by these an attacker compares a merge with the protected model."""
    module = wearing_the_victims_head.module()
    return [int(answer) for inputs in _own_inputs(scenario, _SEEN) for answer in predict(module, inputs)]


def _own_inputs(scenario: Scenario, count: int) -> list[dict[str, torch.Tensor]]:
    return [
        {key: value[:count] for key, value in scenario.tasks[name].inputs_of("validation").items()}
        for name in scenario.companions
    ]


def _probes(scenario: Scenario) -> dict[str, torch.Tensor]:
    parts = _own_inputs(scenario, _PROBES // max(1, len(scenario.companions)) + 1)
    return {key: torch.cat([part[key] for part in parts]) for key in parts[0]}


def _mean_score(accuracies: Mapping[str, float], alone: Mapping[str, Any]) -> float:
    chance, expert = alone["chance"], alone["validation"]
    return float(np.mean([(accuracies[t] - chance[t]) / (expert[t] - chance[t]) for t in accuracies]))


def _residual(recovered: Checkpoint, victim: Checkpoint, base: Checkpoint, changed: list[str]) -> float | None:
    """‖recovered − victim‖ ÷ ‖victim − base‖ over the tensors that the defense changed."""
    far = near = 0.0
    for name in changed:
        if name in base and base.shape(name) == victim.shape(name):
            expert = victim[name].to(torch.float64)
            far += float((recovered[name].to(torch.float64) - expert).square().sum())
            near += float((expert - base[name].to(torch.float64)).square().sum())
    return (far / near) ** 0.5 if near else None


def _tied_costs(recovered: Checkpoint, base: Checkpoint) -> dict[str, float]:
    kinds = sorted({site.kind for site in anatomy_of(base).sites()})
    return {kind: tied_cost(recovered, base, (kind,)) for kind in kinds}


def _change(before: Checkpoint, after: Checkpoint, inputs: Mapping[str, torch.Tensor]) -> float | None:
    """max |Δ logits| ÷ max |logits| on inputs that the attacker owns, in float64; `None` where that is no number."""
    double = {k: v.to(torch.float64) if v.is_floating_point() else v for k, v in inputs.items()}
    with torch.inference_mode():
        old, new = (checkpoint.module(torch.float64)(**double).logits for checkpoint in (before, after))
    change = float((new - old).abs().max() / old.abs().max())
    return change if np.isfinite(change) else None


def _in_memory(returned: Any) -> Any:
    """A lazy overlay computed once; anything but a checkpoint is left for `check_returned` to name."""
    return Checkpoint.of(dict(returned.items()), returned.config) if isinstance(returned, Checkpoint) else returned


def _stream(bench: Bench, tag: str) -> int:
    return int(Key.derive(seed=bench.seed, index=0, name="engine").generator(tag).integers(2**31))


class _memory:
    """Peak resident memory of a block over what was resident before, where the system can tell."""

    megabytes: float | None = None

    def __enter__(self) -> _memory:
        self._before = self._peak(reset=True)
        return self

    def __exit__(self, *_: object) -> None:
        after = self._peak(reset=False)
        if self._before is not None and after is not None:
            self.megabytes = max(0.0, after - self._before)

    @staticmethod
    def _peak(*, reset: bool) -> float | None:
        try:
            if reset:
                Path("/proc/self/clear_refs").write_text("5", encoding="ascii")
            for line in Path("/proc/self/status").read_text(encoding="ascii").splitlines():
                if line.startswith("VmHWM:"):
                    return int(line.split()[1]) / 1024
        except OSError:
            return None
        return None
