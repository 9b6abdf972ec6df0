"""What a cell computes. Runs in a worker, on one thread; everything it needs it loads from the store and by reference.

Each stage takes the cell and a `Bench` and returns plain values, which become the cell's record.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from functools import lru_cache
from typing import Any

import numpy as np
import torch

from redteam.checkpoint import Checkpoint, shared_tensors
from redteam.errors import PluginFault
from redteam.evaluation import measures
from redteam.evaluation.bits import pack
from redteam.evaluation.chains import put_on, take_off
from redteam.evaluation.nodes import Node, content_name
from redteam.evaluation.store import Store
from redteam.key import Key
from redteam.plugins.contracts import AttackSpec
from redteam.plugins.reference import Reference
from redteam.plugins.registry import ATTACKS, DEFENSES, MERGERS, SCENARIOS, LoadedPlugin, Registry
from redteam.plugins.returned import check_returned
from redteam.symmetry import GROUPS
from redteam.tasks import Scenario, Split, Task
from redteam.threat import OWNER, ThreatModel, threat_model
from redteam.views import AttackerView, DefenderView, MergerView, Meter


class Bench:
    """The scenario, the plugins and the inputs of one cell."""

    def __init__(self, node: Node, store: Store) -> None:
        self.node, self.store = node, store
        self.seed, self.key_index = int(node.settings["seed"]), int(node.settings.get("key", 0))
        self.split: Split = node.settings.get("split", "test")  # on which it is scored; a search tunes on another
        name, settings = node.how["scenario"]
        self.scenario = load_scenario(str(Reference(name, {**settings, "seed": self.seed})))

    @property
    def victim(self) -> Checkpoint:
        return self.scenario.experts[self.scenario.victim]

    @property
    def unlocked(self) -> Checkpoint:
        """The victim as it is before the lock: prepared for it, where the chain does that first."""
        return self.input("prepared") if "prepared" in self.node.inputs else self.victim

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
        "experts": {name: pack(scenario.tasks[name].correct(experts[name], bench.split)) for name in experts},
        "validation": {
            name: float(scenario.tasks[name].correct(experts[name], "validation").mean())
            for name in scenario.companions
        },
        "base": {
            name: pack(task.correct(scenario.dressed(scenario.base, name).module(), bench.split))
            for name, task in scenario.tasks.items()
        },
        "stored": measures.stored(scenario.tasks[scenario.victim], bench.victim, bench.split),
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
    scenario, victim = bench.scenario, bench.unlocked
    fresh = node.settings.get("fresh", False)
    if "sibling" in node.settings:
        return _sibling(node, bench, scenario.companions[0])
    source = victim.fresh(_stream(bench, "fresh victim")) if fresh and "prepared" not in node.inputs else victim
    started = time.perf_counter()
    with measures.Memory() as memory:
        protected = _protected(node, bench, source, scenario.tasks[scenario.victim])
    seconds = time.perf_counter() - started
    bench.store.put_artefact(node.name, protected)
    changed = [name for name in victim if name not in protected or not torch.equal(victim[name], protected[name])]
    return {
        "changed": changed,
        "digest": protected.digest(),
        "tied_cost": measures.tied_costs(protected, scenario.base),
        "answers": measures.answers(scenario, protected.module()),
        "stored": {} if fresh else measures.stored(scenario.tasks[scenario.victim], protected, bench.split),
        "dtype": str(next(iter(victim.values())).dtype).removeprefix("torch."),
        "cost": {"seconds": seconds, "megabytes": memory.megabytes},
    }


def _sibling(node: Node, bench: Bench, task: str) -> dict[str, Any]:
    """An expert of the attacker's own under the defense that the victim is under."""
    protected = _protected(node, bench, bench.scenario.experts[task], bench.scenario.tasks[task])
    bench.store.put_artefact(node.name, protected)
    return {"sibling": task, "digest": protected.digest()}


def _attack(node: Node, bench: Bench) -> dict[str, Any]:
    scenario, protected, victim = bench.scenario, bench.input("lock"), bench.unlocked
    meter = Meter()
    started = time.perf_counter()
    with measures.Memory() as memory:
        recovered = protected
        for attack in bench.plugins(ATTACKS, "attack"):
            view = _attacker_view(node, bench, recovered, attack, meter)
            recovered = check_returned(attack, recovered, _in_memory(attack(view)))
    seconds = time.perf_counter() - started
    bench.store.put_artefact(node.name, recovered)
    changed = bench.record("lock")["changed"]
    return {
        "digest": recovered.digest(),
        "residual": measures.residual(recovered, victim, scenario.base, changed),
        "tied_cost": measures.tied_costs(recovered, scenario.base),
        "change": measures.change(protected, recovered, scenario),
        "cost": {
            "seconds": seconds,
            "megabytes": memory.megabytes,
            "labels": meter.labels,
            "steps": meter.steps,
        },
    }


def _merge(node: Node, bench: Bench) -> dict[str, Any]:
    """Attacks often return the same weights (the base, for example), which are merged and scored once."""
    tuned = bench.record("tune")["settings"]
    weights = bench.record("victim")["digest"] if "victim" in node.inputs else ""
    name = content_name("merged", {**node.settings, "tuned": tuned, "victim": weights})
    found = bench.store.shared(name)
    if found is None:
        found = _merged_scores(node, bench, tuned)
        bench.store.put_shared(name, found)
    return found


def _merged_scores(node: Node, bench: Bench, tuned: Mapping[str, Any]) -> dict[str, Any]:
    scenario = bench.scenario
    victim = bench.input("victim") if "victim" in node.inputs else None
    started = time.perf_counter()
    merged = _merged(bench, victim, tuned)
    seconds = time.perf_counter() - started
    tasks: dict[str, Any] = {}
    validation: dict[str, float] = {}
    answers: list[int] = []
    for name, task in scenario.tasks.items():
        module = scenario.dressed(merged, name).module()
        tasks[name] = pack(task.correct(module, bench.split))
        if name == scenario.victim:
            answers = measures.answers(scenario, module)
        else:
            validation[name] = float(task.correct(module, "validation").mean())
    return {"tasks": tasks, "seen": {"validation": validation, "answers": answers}, "cost": {"seconds": seconds}}


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


def _protected(node: Node, bench: Bench, source: Checkpoint, task: Task) -> Checkpoint:
    settings, base = node.settings, bench.scenario.base
    if "unused" in settings:
        return source.replace({name: base[name] for name in shared_tensors(source, base)})
    if "plant" in settings:
        kind, group = settings["plant"]
        view = DefenderView(source, base, bench.key.child(f"plant {group} at {kind}"))
        planted: Checkpoint = _in_memory(view.lock((kind,), GROUPS[group]()))
        return planted
    if "defense" not in settings:
        return source
    return put_on(
        bench.plugins(DEFENSES, "defense"),
        source,
        base,
        bench.key,
        check=lambda defense, before, after: check_returned(defense, before, _in_memory(after)),
        task=task,
        prepared="prepared" in node.inputs,
    )[0]


def _attacker_view(
    node: Node, bench: Bench, protected: Checkpoint, attack: LoadedPlugin[AttackSpec], meter: Meter
) -> AttackerView:
    scenario, name = bench.scenario, node.how["threat"]
    threat = OWNER if name == OWNER.name else threat_model(name)
    defenses = bench.plugins(DEFENSES, "defense")
    return AttackerView(
        protected,
        threat,
        Key.derive(seed=bench.seed, index=bench.key_index, name=f"attack {attack.spec.name}"),
        needs=attack.spec.needs,
        meter=meter,
        _anchor=_anchor(threat, bench),
        _companions={task: scenario.experts[task] for task in scenario.companions},
        _own={task: scenario.tasks[task] for task in scenario.companions},
        _key=bench.key,
        _unlock=lambda checkpoint, key: take_off(defenses, checkpoint, scenario.base, key, owner=bench.key),
        _releases=(bench.input("release"),) if "release" in node.inputs else (),
        _siblings={bench.record("sibling")["sibling"]: bench.input("sibling")} if "sibling" in node.inputs else {},
        _task=scenario.tasks[scenario.victim],
        _owner=Key.derive(seed=bench.seed, index=0, name="owner"),
    )


def _anchor(threat: ThreatModel, bench: Bench) -> Checkpoint:
    """What the attacker has in the base's place."""
    scenario = bench.scenario
    if threat.anchor == "companion":
        return scenario.experts[scenario.companions[0]]
    if threat.anchor == "base":
        return scenario.base
    stream = Key.derive(seed=bench.seed, index=0, name="stale base")
    stale = {}
    companions = [scenario.experts[task] for task in scenario.companions]
    for name in set.intersection(*(set(shared_tensors(expert, scenario.base)) for expert in companions)):
        start = scenario.base[name].to(torch.float64)
        away = float(np.mean([float((expert[name].to(torch.float64) - start).norm()) for expert in companions]))
        noise = torch.from_numpy(np.asarray(stream.generator(name).standard_normal(tuple(start.shape))))
        moved = start + threat.drift * away * noise / noise.norm().clamp_min(torch.finfo(torch.float64).tiny)
        stale[name] = moved.to(scenario.base.dtype(name))
    return scenario.base.replace(stale)


def _merged(bench: Bench, victim: Checkpoint | None, settings: Mapping[str, Any]) -> Checkpoint:
    scenario, base = bench.scenario, bench.scenario.base
    merger = bench.plugins(MERGERS, "merger")[0]
    experts = {name: scenario.experts[name] for name in scenario.companions}
    if victim is not None:
        experts = {name: victim if name == scenario.victim else scenario.experts[name] for name in scenario.experts}
    stream = Key.derive(seed=bench.seed, index=0, name=f"merger {merger.spec.name}")
    merged = _in_memory(
        merger.function(MergerView(experts, base, stream, merger.spec.needs_base), **{**merger.settings, **settings})
    )
    if not merger.spec.needs_base and isinstance(merged, Checkpoint):
        # It has never seen the base; what it leaves out no expert shares, and no task wears.
        merged = base.replace({name: merged[name] for name in shared_tensors(base, merged)})
    return check_returned(merger, base, merged)


def _mean_score(accuracies: Mapping[str, float], alone: Mapping[str, Any]) -> float:
    chance, expert = alone["chance"], alone["validation"]
    return float(np.mean([(accuracies[t] - chance[t]) / (expert[t] - chance[t]) for t in accuracies]))


def _in_memory(returned: Any) -> Any:
    """A lazy overlay computed once; anything but a checkpoint is left for `check_returned` to name."""
    return Checkpoint.of(dict(returned.items()), returned.config) if isinstance(returned, Checkpoint) else returned


def _stream(bench: Bench, tag: str) -> int:
    return int(Key.derive(seed=bench.seed, index=0, name="engine").generator(tag).integers(2**31))
