"""What the six kinds of step compute. Runs in a worker, on one thread; plugins and inputs are loaded by reference."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from contextlib import closing
from dataclasses import dataclass, field, replace

import numpy as np
import torch

from redteam.checkpoint import Checkpoint, shared_tensors
from redteam.devices import reproducible
from redteam.evaluation import metrics
from redteam.evaluation.bench import Bench
from redteam.evaluation.merging import counted, merge, try_setting, watched
from redteam.evaluation.packing import Packed
from redteam.evaluation.pipelines import apply, opened, remove
from redteam.evaluation.runner.store import Store
from redteam.evaluation.stand_ins import Plants, drowned, planted
from redteam.evaluation.steps import Cost, Locked, Record, Recovered, Scored, Step, Tuned
from redteam.key import Key
from redteam.plugins.contracts import AttackSpec, Needs
from redteam.plugins.registry import ATTACKS, DEFENSES, LoadedPlugin
from redteam.plugins.returned import check_returned
from redteam.symmetry import tied_costs
from redteam.tasks import Scenario, Task, halves
from redteam.threat import OWNER, ThreatModel, threat_model
from redteam.views import AttackerView, Meter, Oracle


def run_step(step: Step, store: Store, scenario: Scenario | None = None) -> Record:
    """Computes one step on one thread, whatever the number of workers, since that number changes the last bits.

    Args:
        step: What is computed.
        store: Where its inputs lie, and what it makes.
        scenario: In place of the one that the step names.
    """
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        with closing(Bench(step, store, scenario)) as bench, reproducible(bench.device):
            return _COMPUTATIONS[step.kind](step, bench)
    finally:
        torch.set_num_threads(threads)


def _alone(step: Step, bench: Bench) -> Scored:
    with metrics.Clock(bench.device) as clock:
        scored = _scored(bench)
    return replace(scored, seconds=clock.seconds)


def _scored(bench: Bench) -> Scored:
    scenario, base = bench.scenario, bench.scenario.base
    experts: dict[str, Packed] = {}
    validation: dict[str, float] = {}
    on_half: dict[str, float] = {}
    beside: list[tuple[str, Packed]] = []
    for name, expert in scenario.experts.items():
        task, module = scenario.tasks[name], expert.module()
        experts[name] = Packed.of(task.held(module, bench.split))
        if name == scenario.victim:
            _, beside = counted(task, module, bench.split)
        else:
            validation[name] = float(task.held(module, "validation").mean())
            on_half[name] = watched(task, module)
        del module  # before there is a further one
    copy = bench.kept(base.replace(bench.victim.only(shared_tensors(bench.victim, base))))
    with metrics.Clock(bench.device) as clock:
        stored = metrics.stored(scenario.tasks[scenario.victim], bench.victim, bench.split)
    return Scored(
        victim=scenario.victim,
        chance={name: task.chance for name, task in scenario.tasks.items()},
        experts=experts,
        validation=validation,
        watched=on_half,
        base={
            name: Packed.of(task.scores(scenario.dressed(base, name).module(), bench.split))
            for name, task in scenario.tasks.items()
        },
        copied={
            name: Packed.of(scenario.tasks[name].scores(scenario.dressed(copy, name).module(), bench.split))
            for name in scenario.companions
        },
        stored=stored,
        beside=beside,
        length=float(np.mean([metrics.length(scenario.experts[name], base) for name in scenario.companions])),
        stored_seconds=clock.seconds,
    )


def _tune(step: Step, bench: Bench) -> Tuned:
    """The best of what was tried; the first of several that are."""
    tried = [bench.record(role) for role in step.inputs]
    return Tuned(max(tried, key=lambda one: one.score).settings, [(one.settings, one.score) for one in tried])


def _lock(step: Step, bench: Bench) -> Locked:
    scenario, victim = bench.scenario, bench.unlocked
    fresh = step.settings.get("fresh", False)
    if "sibling" in step.settings:
        return _sibling(step, bench, scenario.companions[0])
    source = _source(bench, fresh=fresh)
    with metrics.Memory(bench.device) as memory, metrics.Clock(bench.device) as clock:
        made = _protected(step, bench, source, scenario.tasks[scenario.victim])
    protected = made.released
    running = _running(bench, protected, made.opened)
    bench.store.put_artefact(step.name, protected)
    shapes = {
        name: list(protected.shape(name))
        for name in protected
        if name not in victim or protected.shape(name) != victim.shape(name)
    }
    answers, inference = _answering(bench, running, timed=bool(shapes) and "defense" in step.settings)
    return Locked(
        digest=protected.digest(),
        changed=[
            *(name for name in victim if name not in protected or not torch.equal(victim[name], protected[name])),
            *(name for name in protected if name not in victim),
        ],
        shapes=shapes,
        planted=list(made.plants),
        uncovered=_uncovered(bench, made.plants),
        tied_cost=tied_costs(protected, scenario.base),
        change=metrics.change(victim, running, scenario) if "defense" in step.settings and not fresh else None,
        answers=answers,
        stored={}
        if fresh
        else metrics.stored(scenario.tasks[scenario.victim], protected, bench.split, opened=made.opened),
        dtype=str(victim.dtype(next(iter(victim)))).removeprefix("torch."),
        cost=Cost(clock.seconds, memory.megabytes, steps=made.steps),
        weights=protected.weights / victim.weights,
        inference=inference,
    )


def _sibling(step: Step, bench: Bench, task: str) -> Locked:
    """An expert of the attacker's own under the defense that the victim is under."""
    protected = _protected(step, bench, bench.scenario.experts[task], bench.scenario.tasks[task]).released
    bench.store.put_artefact(step.name, protected)
    return Locked(protected.digest(), sibling=task)


def _attack(step: Step, bench: Bench) -> Recovered:
    scenario, protected, meter = bench.scenario, bench.input("lock"), Meter()
    open_up = _opening(step, bench)
    with metrics.Memory(bench.device) as memory, metrics.Clock(bench.device) as clock:
        recovered = protected
        for attack in bench.plugins(ATTACKS, "attack"):
            view = _attacker_view(step, bench, recovered, attack, meter, open_up)
            # Whoever only has answers starts from the base, whatever tensors the lock has added.
            recovered = check_returned(attack, view.protected, bench.kept(attack(view)))
    bench.store.put_artefact(step.name, recovered)
    return Recovered(
        digest=recovered.digest(),
        residual=metrics.residual(recovered, bench.unlocked, scenario.base, bench.record("lock").changed),
        tied_cost=tied_costs(recovered, scenario.base),
        change=metrics.change(_running(bench, protected, open_up), recovered, scenario),
        cost=Cost(clock.seconds, memory.megabytes, meter.labels, meter.steps),
    )


_COMPUTATIONS: Mapping[str, Callable[[Step, Bench], Record]] = {
    "alone": _alone,
    "try": try_setting,
    "tune": _tune,
    "lock": _lock,
    "attack": _attack,
    "merge": merge,
}


Opening = Callable[[Checkpoint], Checkpoint]
"""Makes of released weights what runs: what they are sealed with is off, everything else is as it was."""


def _as_it_is(released: Checkpoint) -> Checkpoint:
    return released


@dataclass(frozen=True)
class _Made:
    """A victim under a lock: what is released, what was planted, how the key's holder runs it, and optimizer steps."""

    released: Checkpoint
    plants: Plants = field(default_factory=dict)
    opened: Opening = _as_it_is
    steps: int = 0


def _running(bench: Bench, released: Checkpoint, open_up: Opening) -> Checkpoint:
    """What is released, opened, every tensor computed once."""
    found = open_up(released)
    return released if found is released else bench.kept(found)


def _answering(bench: Bench, running: Checkpoint, *, timed: bool) -> tuple[list[int], float]:
    """Its answers, and the CPU time of a forward pass over the victim's; 1 where that is not measured."""
    network = running.module()
    answers = metrics.answers(bench.scenario, network)
    if not timed:
        return answers, 1.0
    inputs = bench.scenario.tasks[bench.scenario.victim].inputs_of("validation")
    return answers, metrics.slower(network, bench.victim.module(), inputs)


def _source(bench: Bench, *, fresh: bool) -> Checkpoint:
    """What a lock is put on."""
    victim = bench.unlocked
    return bench.kept(victim.fresh(_fresh_seed(bench))) if fresh and "prepared" not in bench.step.inputs else victim


def _protected(step: Step, bench: Bench, source: Checkpoint, task: Task) -> _Made:
    """The victim under what the step's settings ask for."""
    settings, base = step.settings, bench.scenario.base
    if "unused" in settings:
        return _Made(source.replace(base.only(shared_tensors(source, base))))
    if "drowned" in settings:
        return _Made(bench.kept(drowned(source, base, bench.key.child("noise"))))
    if "plant" in settings:
        changed = settings.get("changed")
        locked, plants = planted(source, settings["plant"], bench.key, None if changed is None else set(changed))
        return _Made(bench.kept(locked), plants)
    if "defense" not in settings:
        return _Made(source)
    defenses = bench.plugins(DEFENSES, "defense")
    protected, views = apply(
        defenses,
        source,
        base,
        bench.key,
        check=lambda defense, before, after: check_returned(defense, before, bench.kept(after)),
        task=task,
        prepared="prepared" in step.inputs,
    )
    steps = sum(view.meter.steps for view in views)
    return _Made(protected, opened=lambda released: opened(defenses, released, views), steps=steps)


def _opening(step: Step, bench: Bench) -> Opening:
    """How whoever holds the key runs the lock that a step attacks; what is kept inside is made again, as it was."""
    defenses = bench.plugins(DEFENSES, "defense")
    if not any(defense.spec.sealed for defense in defenses):
        return _as_it_is
    _, views = apply(
        defenses,
        _source(bench, fresh=step.how["fresh"]),
        bench.scenario.base,
        bench.key,
        check=lambda _, __, after: after,
        task=bench.scenario.tasks[bench.scenario.victim],
        prepared="prepared" in step.inputs,
    )
    return lambda released: opened(defenses, released, views)


def _uncovered(bench: Bench, plants: Plants) -> list[str]:
    return sorted(set(bench.step.settings.get("changed", ())) - set().union(*plants.values()))


def _attacker_view(
    step: Step,
    bench: Bench,
    protected: Checkpoint,
    attack: LoadedPlugin[AttackSpec],
    meter: Meter,
    open_up: Opening,
) -> AttackerView:
    scenario, name = bench.scenario, step.how["threat"]
    threat = OWNER if name == OWNER.name else threat_model(name)
    defenses = bench.plugins(DEFENSES, "defense")
    task = scenario.tasks[scenario.victim]
    oracle = None
    if Needs.OUTPUTS in attack.spec.needs:
        # Of what does not run alone, it is the lock itself that answers, whatever an earlier link made of it.
        answering = protected if open_up is _as_it_is else open_up(bench.input("lock"))
        oracle, protected = Oracle(answering), scenario.dressed(scenario.base, scenario.victim)

    def unlock(checkpoint: Checkpoint, key: Key) -> Checkpoint:
        links = defenses
        if key == bench.key:  # whoever has it has what is kept inside, too
            checkpoint, links = open_up(checkpoint), [link for link in defenses if not link.spec.sealed]
        return remove(links, checkpoint, scenario.base, key, owner=bench.key, task=task)

    return AttackerView(
        protected,
        threat,
        bench.stream(f"attack {attack.spec.name}", index=int(step.settings.get("key", 0))),
        needs=attack.spec.needs,
        meter=meter,
        _anchor=_anchor(threat, bench),
        _companions={name: scenario.experts[name] for name in scenario.companions},
        _own={name: halves(scenario.tasks[name])[0] for name in scenario.companions},
        _key=bench.key,
        _unlock=unlock,
        _releases=(bench.input("release"),) if "release" in step.inputs else (),
        _siblings={bench.record("sibling").sibling: bench.input("sibling")} if "sibling" in step.inputs else {},
        _task=task,
        _owner=bench.stream("owner"),
        _oracle=oracle,
    )


def _anchor(threat: ThreatModel, bench: Bench) -> Checkpoint:
    """What the attacker has in the base's place."""
    scenario = bench.scenario
    if threat.anchor == "companion":
        return scenario.experts[scenario.companions[0]]
    if threat.anchor == "base":
        return scenario.base
    stream = bench.stream("stale base")
    companions = [scenario.experts[task] for task in scenario.companions]
    common = set.intersection(*(set(shared_tensors(expert, scenario.base)) for expert in companions))

    def drifted(name: str) -> torch.Tensor:
        start = scenario.base[name].to(torch.float64)
        away = float(np.mean([float((expert[name].to(torch.float64) - start).norm()) for expert in companions]))
        noise = torch.from_numpy(np.asarray(stream.generator(name).standard_normal(tuple(start.shape)))).to(start)
        scale = threat.drift * away / noise.norm().clamp_min(torch.finfo(torch.float64).tiny)
        moved: torch.Tensor = start + scale * noise
        return moved.to(scenario.base.dtype(name))

    return bench.kept(scenario.base.replace(Checkpoint.computed(scenario.base.outline(common), drifted)))  # type: ignore[no-any-return]


def _fresh_seed(bench: Bench) -> int:
    return int(bench.stream("engine").generator("fresh victim").integers(2**31))
