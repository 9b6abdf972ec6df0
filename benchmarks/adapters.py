"""What a merge of adapters steals when the victim's factors are locked: `python benchmarks/adapters.py`.

On the base of `digits`, PEFT trains adapters of rank 8 at every linear layer of the blocks: the victim's and those of
two companions. The victim's is locked by `adapter-gauge`, attacked, and merged with the companions' by every way in
which peft combines adapters, and by `task-arithmetic`; theft is that of runs. Everything is done twice: all adapters
began with the same A, as those of one seed do, or the victim's began with another one.

λ is chosen as in runs, on the companions' validation data for the merge of the companions alone, among fewer values.
Steps and rate were chosen on seed 0 by what experts score alone on validation data, before any merge. Half a
minute of CPU time a seed, and what training the scenario takes. What is in `--out` already is not computed again.
"""

from __future__ import annotations

import argparse
import json
import warnings
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from redteam.checkpoint import Checkpoint
from redteam.checkpoint.modules import parameter_names
from redteam.evaluation.baselines import Baselines
from redteam.evaluation.metrics import Clock
from redteam.evaluation.packing import Packed
from redteam.evaluation.statistics import combine
from redteam.evaluation.steps import Cost, Merged, Scored, parsed, plain
from redteam.key import Key
from redteam.plugins.reference import Reference
from redteam.plugins.registry import ATTACKS, DEFENSES, MERGERS, SCENARIOS
from redteam.tasks import Scenario, Split
from redteam.views import AttackerView, DefenderView, MergerView

COMPANIONS = ("letters", "shapes")
COMBINATIONS = ("linear", "ties", "dare_linear", "dare_ties", "magnitude_prune", "cat", "svd")
COEFFICIENTS = tuple(round(0.2 * step, 1) for step in range(1, 11))
GROUPS = ("general-linear", "orthogonal", "scaling")
BEFORE, OUT = "before the lock", "`multiply-out`"
ALIKE, APART = "began alike", "began apart"
SAME = 1e-6  # entries of merges that differ by rounding alone


@dataclass(frozen=True)
class Recipe:
    """How adapters are trained: by AdamW as `redteam.training` has it, under a cosine."""

    rank: int = 8
    steps: int = 125
    rate: float = 5e-3
    batch: int = 64
    epsilon: float = 1e-3


def trained(scenario: Scenario, task: str, begun: int, out: Path, recipe: Recipe) -> Checkpoint:
    """An adapter over the base, from a folder that PEFT wrote; trained first where it is missing.

    Args:
        scenario: Base, head and data; the head stays as it is.
        task: Which.
        begun: The seed of the first A. The adapter as it begins is written beside, as `begun-SEED`.
        out: Where the folder is.
        recipe: How.
    """
    folder = out / f"{task}-{begun}"
    if not folder.exists():
        from peft import LoraConfig, get_peft_model
        from transformers import get_cosine_schedule_with_warmup

        module = scenario.dressed(scenario.base, task).module(torch.float32)
        layers = [name for name, one in module.named_modules() if isinstance(one, nn.Linear) and "layer" in name]
        settings = LoraConfig(r=recipe.rank, lora_alpha=2 * recipe.rank, target_modules=layers)
        with torch.random.fork_rng(devices=[]), warnings.catch_warnings():
            warnings.simplefilter("ignore")
            torch.manual_seed(begun)
            network = get_peft_model(module, settings)
            network.save_pretrained(out / f"begun-{begun}", save_embedding_layers=False)
        learned = [weight for weight in network.parameters() if weight.requires_grad]
        optimizer = torch.optim.AdamW(learned, lr=recipe.rate, eps=recipe.epsilon, weight_decay=0.0)
        schedule = get_cosine_schedule_with_warmup(optimizer, recipe.steps // 10, recipe.steps)
        draws = np.random.default_rng([scenario.seed, begun])
        task_of = scenario.tasks[task]
        data = (batch for _ in range(recipe.steps) for batch in task_of.batches("train", recipe.batch, draws))
        for _, batch in zip(range(recipe.steps), data, strict=False):
            optimizer.zero_grad()
            task_of.loss(module, batch).backward()
            nn.utils.clip_grad_norm_(learned, 1.0)
            optimizer.step()
            schedule.step()
        network.save_pretrained(folder, save_embedding_layers=False)  # there are none, and it would ask the hub
    return held(Checkpoint.open(folder, base=scenario.base))


def held(adapter: Checkpoint) -> Checkpoint:
    """The same adapter with everything computed once."""
    tensors, factors = dict(adapter.items()), {name: adapter.factors(name) for name in adapter}
    return Checkpoint.computed(adapter.outline(), tensors.__getitem__, adapter.config, None, factors.get)


def locked(adapter: Checkpoint, group: str, key: Key) -> Checkpoint:
    """The adapter under `adapter-gauge`."""
    made: Checkpoint = DEFENSES.load(f"adapter-gauge:group={group}")(DefenderView(adapter, None, key))
    return held(made)


def multiplied(adapter: Checkpoint, base: Checkpoint, like: Path | None = None) -> Checkpoint:
    """After `multiply-out`, in the basis of another adapter where one is given."""
    text = "multiply-out" if like is None else str(Reference("multiply-out", {"like": str(like)}))
    return held(ATTACKS.load(text)(AttackerView.by_hand(adapter, anchor=base)))


class Bench:
    """Merges of one seed, and their scores.

    Args:
        scenario: Base, heads and data.
        companions: Task → adapter.
        victims: Case → the victim's adapter.
    """

    def __init__(
        self, scenario: Scenario, companions: Mapping[str, Checkpoint], victims: Mapping[str, Checkpoint]
    ) -> None:
        self.scenario, self.companions, self.victims = scenario, companions, victims
        self._networks = {task: scenario.dressed(scenario.base, task).module() for task in self.tasks}
        self._names = parameter_names(scenario.dressed(scenario.base, scenario.victim))
        self._seen: list[tuple[Tensor, Merged]] = []

    @property
    def tasks(self) -> tuple[str, ...]:
        return (self.scenario.victim, *self.companions)

    def scores(self, shared: Checkpoint, task: str, split: Split = "test") -> np.ndarray[Any, Any]:
        """One result per sample. Networks get other weights, since building them takes longer than answering."""
        network = self._networks[task]
        parameters = dict(network.named_parameters())
        with torch.no_grad():
            for name in self.moving:
                parameters[self._names[name]].copy_(shared[name])
        return self.scenario.tasks[task].scores(network, split)

    @cached_property
    def moving(self) -> tuple[str, ...]:
        """Names of the tensors that adapters change."""
        return tuple(name for name in self.scenario.base if self.victims[ALIKE].factors(name) is not None)

    def merge(self, merger: str, victim: Checkpoint | None, coefficient: float) -> Checkpoint:
        """The companions with a victim, or without. What changes is λ times what changes at 1."""
        plugin, base = MERGERS.load(merger), self.scenario.base
        experts = {**({} if victim is None else {self.scenario.victim: victim}), **self.companions}
        stream = Key.derive(seed=self.scenario.seed, index=0, name=f"merger {plugin.spec.name}")
        made = plugin.function(MergerView(experts, base, stream), **{**plugin.settings, "coefficient": 1.0})
        return Checkpoint.of({n: base[n] + coefficient * (made[n] - base[n]) for n in self.moving}, base.config)

    def chosen(self, merger: str) -> float:
        """The λ at which the companions alone merge best, by their mean n on validation data."""
        whole, base = self.merge(merger, None, 1.0), self.scenario.base
        chance = {task: self.scenario.tasks[task].chance for task in self.companions}
        best = {task: self.scores(one, task, "validation").mean() for task, one in self.companions.items()}

        def mean_n(coefficient: float) -> float:
            at = Checkpoint.of({n: base[n] + coefficient * (whole[n] - base[n]) for n in self.moving}, base.config)
            n = [(self.scores(at, t, "validation").mean() - chance[t]) / (best[t] - chance[t]) for t in chance]
            return float(np.mean(n))

        return max(COEFFICIENTS, key=mean_n)

    def scored(self, merged: Checkpoint) -> Merged:
        """Its results on every task; merges that are the same but for rounding are scored once."""
        vector = torch.cat([merged[name].flatten() for name in self.moving])
        for other, record in self._seen:
            if float((vector - other).abs().max()) <= SAME:
                return record
        record = Merged({t: Packed.of(self.scores(merged, t)) for t in self.tasks}, {}, [], Cost(0.0))
        self._seen.append((vector, record))
        return record

    def alone(self, case: str) -> Scored:
        """Every adapter on its own task."""
        adapters = {self.scenario.victim: self.victims[case], **self.companions}
        experts = {task: Packed.of(self.scores(one, task)) for task, one in adapters.items()}
        chance = {task: self.scenario.tasks[task].chance for task in adapters}
        return Scored(self.scenario.victim, chance, experts, {}, {}, {}, {}, 0.0)

    def released(self, case: str, out: Path) -> dict[str, Checkpoint]:
        """What a free-rider may have in the victim's place, by row of the table."""
        victim, base = self.victims[case], self.scenario.base
        key = Key.derive(seed=self.scenario.seed, index=0, name="defender")
        under = {group: locked(victim, group, key) for group in (GROUPS if case == ALIKE else GROUPS[:1])}
        one, own, first = under[GROUPS[0]], out / f"{next(iter(self.companions))}-0", out / "begun-0"
        attacked = {OUT: multiplied(one, base), f"{OUT}, like an own one": multiplied(one, base, own)}
        if case == ALIKE:
            attacked[f"{OUT}, like the first A"] = multiplied(one, base, first)
        return {BEFORE: victim, **under, **attacked}


def measured(
    scenario: Scenario, companions: Sequence[str], out: Path, recipe: Recipe, density: float
) -> dict[str, Any]:
    """All records of a seed, as JSON holds them: merger → case → row → merge; and the experts alone."""
    place = out / f"records-{density:g}.json"
    if place.exists():
        return json.loads(place.read_text())  # type: ignore[no-any-return]
    own = {task: trained(scenario, task, 0, out, recipe) for task in companions}
    victims = {case: trained(scenario, scenario.victim, i, out, recipe) for i, case in enumerate((ALIKE, APART))}
    bench = Bench(scenario, own, victims)
    released = {case: bench.released(case, out) for case in victims}
    found: dict[str, Any] = {"alone": {case: plain("alone", bench.alone(case)) for case in victims}, "merges": {}}
    for merger in mergers(density):
        coefficient = bench.chosen(merger)
        without = plain("merge", bench.scored(bench.merge(merger, None, coefficient)))
        found["merges"][merger] = {"coefficient": coefficient, "without": without}
        for case, rows in released.items():
            made = {row: bench.scored(bench.merge(merger, one, coefficient)) for row, one in rows.items()}
            found["merges"][merger][case] = {row: plain("merge", one) for row, one in made.items()}
        print(f"  seed {scenario.seed}, {merger}: λ = {coefficient}", flush=True)
    place.write_text(json.dumps(found))
    return found


def mergers(density: float) -> Iterator[str]:
    """As plans write them."""
    for combination in COMBINATIONS:
        yield f"peft:combination={combination},density={density:g}"
    yield "task-arithmetic"


def baselines(seed: int, record: Mapping[str, Any], merger: str, case: str) -> Baselines:
    """What theft is measured against: the merge with the unlocked victim, and that without it."""
    of = record["merges"][merger]
    alone, merges = parsed("alone", record["alone"][case]), (of["without"], of[case][BEFORE])
    return Baselines.of(f"digits/{seed}", alone, *(parsed("merge", one) for one in merges))


def tables(records: Mapping[int, Mapping[str, Any]], density: float) -> Iterator[str]:
    """Theft by row and merger, with the interval that reports give, and what there was to steal."""
    columns = list(mergers(density))
    for case in (ALIKE, APART):
        based = {merger: {s: baselines(s, r, merger, case) for s, r in records.items()} for merger in columns}
        names = (merger.partition("=")[2].partition(",")[0] or merger for merger in columns)
        yield f"\n| {case} | {' | '.join(f'`{name}`' for name in names)} |"
        yield "|---" * (len(columns) + 1) + "|"
        gains = (combine([one.gain for one in based[merger].values()]) for merger in columns)
        yield f"| the victim's gain, {BEFORE} | {' | '.join(map(str, gains))} |"
        for row in next(iter(records.values()))["merges"][columns[0]][case]:
            thefts = (
                [b.theft(parsed("merge", records[s]["merges"][m][case][row])) for s, b in based[m].items()]
                for m in columns
            )
            cells = (combine(each, lowest=0.0, highest=1.0) for each in thefts)
            yield f"| {row} | {' | '.join(map(str, cells))} |"


def price(adapter: Checkpoint) -> str:
    """What the lock costs its owner."""
    with Clock() as clock:
        after = locked(adapter, GROUPS[0], Key.derive(seed=0, index=0, name="defender"))
    sizes = [
        {name: (found.up.shape, found.down.shape) for name in one if (found := one.factors(name)) is not None}
        for one in (adapter, after)
    ]
    told = "of the shapes that they had" if sizes[0] == sizes[1] else "of OTHER SHAPES"
    return f"{len(sizes[0])} modules locked in {clock.seconds:.2f} CPU s, their factors {told}"


def main() -> None:
    """Prints what the lock costs, and the tables over all seeds."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2, 3, 4])
    parser.add_argument("--density", type=float, default=0.5, help="the share that pruning keeps")
    parser.add_argument("--out", type=Path, default=Path("runs/adapters"))
    asked = parser.parse_args()
    torch.set_num_threads(1)
    records = {}
    for seed in asked.seeds:
        scenario, out = SCENARIOS.load(f"digits:seed={seed}")(), asked.out / f"seed{seed}"
        records[seed] = measured(scenario, COMPANIONS, out, Recipe(), asked.density)
    print(price(trained(scenario, scenario.victim, 0, out, Recipe())))
    for line in tables(records, asked.density):
        print(line)


if __name__ == "__main__":
    main()
