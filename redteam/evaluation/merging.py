"""Merges as they are made and scored: one checkpoint under every task's head, or what keeps every expert whole."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any

import numpy as np

from redteam.checkpoint import Checkpoint, Whole, shared_tensors
from redteam.errors import Inapplicable
from redteam.evaluation import metrics
from redteam.evaluation.bench import Bench
from redteam.evaluation.packing import Packed
from redteam.evaluation.stand_ins import rescaled
from redteam.evaluation.steps import Cost, Merged, Scored, Step, Tried, content_name
from redteam.plugins.registry import MERGERS
from redteam.plugins.returned import check_returned, check_whole
from redteam.tasks import Split, Task, halves
from redteam.views import MergerView

if TYPE_CHECKING:
    from torch import nn


def try_setting(step: Step, bench: Bench) -> Tried:
    """One setting of a merger on the companions-only merge."""
    scenario, settings = bench.scenario, step.settings["setting"]
    merge = _Merge(bench, None, settings)
    scores = {
        name: float(scenario.tasks[name].scores(merge.network(name), "validation").mean())
        for name in scenario.companions
    }
    return Tried(settings, _mean_score(scores, bench.record("alone")))


def merge(step: Step, bench: Bench) -> Merged:
    """Attacks often return the same weights (the base, for example), which are merged and scored once."""
    tuned = bench.record("tune").settings
    weights = bench.record("victim").digest if "victim" in step.inputs else ""
    name = content_name("merged", {**step.settings, "tuned": tuned, "victim": weights})
    found: Merged | None = bench.store.shared("merge", name)
    if found is None:
        found = _scored(step, bench, tuned)
        bench.store.put_shared("merge", name, found)
    return found


def watched(task: Task, module: nn.Module) -> float:
    """The score on the half of the attacker's validation data that no attack is given."""
    return float(halves(task)[1].scores(module, "validation").mean())


def counted(task: Task, module: nn.Module, split: Split) -> tuple[Packed, list[tuple[str, Packed]]]:
    """The score of each item, and all that is counted by name where that is more than the score."""
    figures = [(name, Packed.of(found)) for name, found in task.figures(module, split).items()]
    return figures[0][1], figures if len(figures) > 1 else []


def _scored(step: Step, bench: Bench, tuned: Mapping[str, Any]) -> Merged:
    scenario = bench.scenario
    victim = bench.input("victim") if "victim" in step.inputs else None
    if victim is not None and "scale" in step.settings:
        victim = bench.kept(rescaled(victim, scenario.base, step.settings["scale"] * bench.record("alone").length))
    made = _Merge(bench, victim, tuned)
    tasks: dict[str, Packed] = {}
    seen: dict[str, float] = {}
    answers: list[int] = []
    beside: list[tuple[str, Packed]] = []
    stored = inference = None
    for name, task in scenario.tasks.items():
        module = made.network(name)
        if name == scenario.victim:
            tasks[name], beside = counted(task, module, bench.split)
            answers = metrics.answers(scenario, module)
            if made.whole:
                stored, inference = _costs(made, module, bench)
        else:
            tasks[name] = Packed.of(task.scores(module, bench.split))
            seen[name] = watched(task, module)
    return Merged(tasks, seen, answers, Cost(made.seconds, labels=made.labels), stored, inference, beside)


def _costs(made: _Merge, module: nn.Module, bench: Bench) -> tuple[float, float]:
    """What has to be stored, and a forward pass of the victim's network, over those of one model."""
    plain, held = bench.victim.module(), made.returned.nbytes
    stored = _bytes(module) / _bytes(plain) if held is None else held / bench.scenario.base.nbytes
    return stored, metrics.slower(module, plain, bench.scenario.tasks[bench.scenario.victim].inputs_of(bench.split))


def _bytes(module: nn.Module) -> int:
    return sum(weight.numel() * weight.itemsize for weight in module.parameters())


@dataclass
class _Merge:
    """The companions merged with a checkpoint in the victim's place, or without any.

    Attributes:
        seconds: CPU seconds that merging took so far.
        labels: Labelled samples of the victim's task that it took so far.
    """

    bench: Bench
    victim: Checkpoint | None
    settings: Mapping[str, Any]
    seconds: float = 0.0
    labels: int = 0

    def network(self, task: str) -> nn.Module:
        """What runs on a task."""
        made = self.returned
        with metrics.Clock(self.bench.device) as clock:
            shared = made.of(task)
        self.seconds += clock.seconds
        return made.network(self.bench.scenario.dressed(shared, task))

    @cached_property
    def returned(self) -> Whole:
        """What the merger returned; one checkpoint is the same for every task."""
        with metrics.Clock(self.bench.device) as clock:
            made = self._returned()
        self.seconds += clock.seconds
        return made

    @property
    def whole(self) -> bool:
        return bool(self._plugin.spec.whole)

    @cached_property
    def _plugin(self) -> Any:
        return self.bench.plugins(MERGERS, "merger")[0]

    def _returned(self) -> Whole:
        bench, merger = self.bench, self._plugin
        scenario, base = bench.scenario, bench.scenario.base
        experts = {name: scenario.experts[name] for name in scenario.companions}
        if self.victim is not None:
            experts = {
                name: self.victim if name == scenario.victim else scenario.experts[name] for name in scenario.experts
            }
        view = MergerView(
            experts,
            base,
            bench.stream(f"merger {merger.spec.name}"),
            merger.spec.needs_base,
            merger.spec.needs,
            _tasks={t: halves(task)[0] if t in scenario.companions else task for t, task in scenario.tasks.items()},
            _victim=scenario.victim,
            _owner=bench.stream("owner"),
            _most=int(merger.settings.get("samples", 0)),
        )
        try:
            made = merger.function(view, **{**merger.settings, **self.settings})
            made = made if merger.spec.whole else bench.kept(made)
            self.labels = view.labels
        except Inapplicable:
            if len(experts) > 1:
                raise
            # Whoever has one expert, and a merger that takes more, has that expert.
            (only,) = experts.values()
            alone = bench.kept(base.replace(only.only(shared_tensors(only, base))))
            return Whole(lambda _: alone, alone.nbytes)
        if merger.spec.whole:
            checked = check_whole(merger, base, made)
            return Whole(lambda task: bench.kept(checked.of(task)), checked.nbytes, checked.rewire)
        if not merger.spec.needs_base and isinstance(made, Checkpoint):
            # It has never seen the base; what it leaves out no expert shares, and no task wears.
            made = base.replace(made.only(shared_tensors(base, made)))
        one = check_returned(merger, base, made)
        return Whole(lambda _: one, one.nbytes)


def _mean_score(scores: Mapping[str, float], alone: Scored) -> float:
    chance, expert = alone.chance, alone.validation
    return float(np.mean([(scores[t] - chance[t]) / (expert[t] - chance[t]) for t in scores]))
