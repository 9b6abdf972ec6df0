"""From records to scores: vectors over resampled test items, computed once for each pairing and kept.

n(m, t) = (score of merge m on task t − chance) ÷ (score of t's own expert − chance), a score being the mean of one
result per test item: an accuracy, or whatever else the task counts. Every figure is a vector as
`redteam.evaluation.statistics` describes it.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property, lru_cache
from typing import Any

import numpy as np

from redteam.evaluation.design import Design
from redteam.evaluation.packing import Packed
from redteam.evaluation.pairings import Ground, Pairing
from redteam.evaluation.rows import SeedFigure, Status
from redteam.evaluation.statistics import Vector, halves, quantiles, sure_bound, unseen, weights
from redteam.evaluation.steps import Merged, Outcome, Scored
from redteam.evaluation.thresholds import THRESHOLDS

Scores = Mapping[str, Vector]
"""Task → n."""

Half = int | None
"""0 or 1: one half of the victim's test items; `None`: all of them."""


@dataclass(frozen=True)
class Baselines:
    """A scenario under one seed and merger: its experts' scores, and the two merges that theft lies between.

    Attributes:
        tag: Names the streams of its resamples.
        victim: The victim's task.
        companions: The other tasks.
        chance, expert: Task → score of guessing and of its expert.
        without, reference: The companions-only merge, and the merge with the unlocked victim.
    """

    tag: str
    victim: str
    companions: tuple[str, ...]
    chance: Mapping[str, float]
    expert: Mapping[str, Vector] = field(repr=False)
    without: Merged = field(repr=False)
    reference: Merged = field(repr=False)

    @classmethod
    def of(cls, tag: str, alone: Scored, without: Merged, reference: Merged) -> Baselines:
        """From the records of the experts alone and of the two merges."""
        expert = {task: average(packed, f"{tag}/{task}") for task, packed in alone.experts.items()}
        companions = tuple(task for task in alone.experts if task != alone.victim)
        return cls(tag, alone.victim, companions, alone.chance, expert, without, reference)

    def against(self, reference: Merged) -> Baselines:
        """The same with another reference merge."""
        return replace(self, reference=reference)

    def score(self, packed: Packed, task: str, half: Half = None) -> Vector:
        """n of one task."""
        gap = self.expert[task] - self.chance[task]
        return _ratio(average(packed, f"{self.tag}/{task}", half) - self.chance[task], gap)

    def scores(self, merge: Merged) -> Scores:
        """n of a merge on every task."""
        return {task: self.score(packed, task) for task, packed in merge.tasks.items()}

    @cached_property
    def reference_scores(self) -> Scores:
        """n of the merge with the unlocked victim."""
        return self.scores(self.reference)

    @cached_property
    def without_scores(self) -> Scores:
        """n of the companions-only merge."""
        return self.scores(self.without)

    @cached_property
    def gain(self) -> Vector:
        """What the victim adds on its own task: n(reference, v) − n(without, v)."""
        return self.reference_scores[self.victim] - self.without_scores[self.victim]

    def gain_on(self, half: int) -> Vector:
        """The same on one half of the victim's test items."""
        one, other = (merge.tasks[self.victim] for merge in (self.reference, self.without))
        return self.score(one, self.victim, half) - self.score(other, self.victim, half)

    @property
    def items(self) -> int:
        """How many test items the victim's task has."""
        return self.reference.tasks[self.victim].n

    @property
    def theft_of_all(self) -> float:
        """By how much theft changes if the victim's task goes from all wrong to all right.

        Where results are numbers, by how much if every item changes as the one that the victim changes most.
        """
        scale = float(self.gain[0]) * (float(self.expert[self.victim][0]) - self.chance[self.victim])
        return self._most / scale if scale > 0 else 0.0

    @cached_property
    def _most(self) -> float:
        one, other = (merge.tasks[self.victim] for merge in (self.reference, self.without))
        return 1.0 if one.bits else float(np.abs(one.unpack() - other.unpack()).max())

    def charge(self, merge: Merged) -> Vector:
        """What the companions lose under the reference merge's n, summed over them, beyond 0.02 each."""
        lost = [
            np.clip(self.reference_scores[t] - self.score(merge.tasks[t], t) - THRESHOLDS.companions, 0.0, None)
            for t in self.companions
        ]
        return np.asarray(np.sum(lost, axis=0)) if lost else np.zeros_like(self.gain)

    def net(self, merge: Merged, half: Half = None, *, apart: bool = False) -> Vector:
        """What the attacker nets of what the victim had to give, not yet cut to 0 and 1.

        Args:
            merge: The attacked merge.
            half: On which half of the victim's test items, if not on all.
            apart: Whether the gain is that half's as well, so that nothing of the other half is in the figure.
        """
        victim, gain = self.victim, self.gain if half is None or not apart else self.gain_on(half)
        start = self.without_scores[victim] if half is None else self.score(self.without.tasks[victim], victim, half)
        return _ratio(self.score(merge.tasks[victim], victim, half) - start - self.charge(merge), gain)

    def sure(self, counted: Vector) -> float:
        """The lower bound of a figure of the victim's task, however many were looked at."""
        return sure_bound(counted, self.items, self.theft_of_all)

    def net_point(self, merge: Merged, half: int, *, apart: bool = False) -> float:
        """`net` of one half, without its resamples: what a choice between pairings goes by."""
        gain = float((self.gain_on(half) if apart else self.gain)[0])
        gap = float(self.expert[self.victim][0]) - self.chance[self.victim]
        if gain <= 0 or gap <= 0:
            return 0.0
        one, other = (m.tasks[self.victim] for m in (merge, self.without))
        chosen = halves(one.n, f"{self.tag}/{self.victim}")[half] > 0
        more = float(one.unpack()[chosen].mean() - other.unpack()[chosen].mean()) / gap
        return (more - float(self.charge(merge)[0])) / gain

    def theft(self, merge: Merged) -> Vector:
        """The share of the gain that the attacker nets, 0 to 1."""
        return np.clip(self.net(merge), 0.0, 1.0)

    def recovery(self, attacked: Scores, locked: Scores) -> Vector | None:
        """(S(attacked) − S(locked)) ÷ (S(reference) − S(locked)); `None` where the lock costs under 0.01."""
        lost = _mean(self.reference_scores) - _mean(locked)
        return None if lost[0] < 0.01 else _ratio(_mean(attacked) - _mean(locked), lost)

    def harm(self, attacked: Scores) -> Vector:
        """By how much the mean score over all tasks differs from the reference merge's."""
        return _mean(attacked) - _mean(self.reference_scores)

    def kept(self, protected: Packed, victim: Packed, *, above: float = 0.0) -> Vector:
        """Score of the protected model alone ÷ that of the victim, both counted from `above`."""
        tag = f"{self.tag}/{self.victim}"
        return _ratio(average(protected, tag) - above, average(victim, tag) - above)


class Table:
    """All scores of a run, each computed when it is first asked for and kept.

    Args:
        design: The plan laid out.
        outcomes: Name → outcome, of the steps that have ended.
    """

    def __init__(self, design: Design, outcomes: Mapping[str, Outcome]) -> None:
        self.design, self.outcomes = design, outcomes
        self._baselines: dict[tuple[Any, ...], Baselines] = {}
        self._halves: dict[tuple[Pairing, int, bool], float] = {}
        self._thefts: dict[tuple[Any, ...], Vector] = {}

    def record(self, name: str) -> Any:
        """The record of a step, `None` unless it is there and finished."""
        outcome = self.outcomes.get(name)
        return outcome.record if outcome is not None and outcome.status == "ok" else None

    def ended(self, pairing: Pairing) -> bool:
        """Whether every step behind it, and what it is measured against, has ended."""
        return all(name in self.outcomes for name in (*pairing.steps, *self.ground(pairing)))

    def ground(self, pairing: Pairing) -> Ground:
        """What a pairing is measured against."""
        return self.design.grounds[pairing.place.scenario, pairing.seed, pairing.merger]

    def status(self, pairing: Pairing) -> tuple[Status, str]:
        """The pairing's own failure if it has one, else that of what it waited for."""
        steps = pairing.steps
        names = (steps.recovered, steps.merge, steps.naive, steps.twin, steps.unused, steps.reference)
        for name in (*names, *self.ground(pairing)):
            outcome = self.outcomes.get(name) if name else None
            if outcome is not None and outcome.status != "ok":
                return outcome.status, outcome.reason
        return "ok", ""

    def inapplicable(self, pairing: Pairing) -> bool:
        """Whether the attack has said that it is not for such a checkpoint."""
        outcome = self.outcomes.get(pairing.steps.recovered)
        return outcome is not None and outcome.inapplicable

    def judged(self, pairing: Pairing) -> bool:
        """Whether there is a theft."""
        return self.ended(pairing) and self.status(pairing)[0] == "ok"

    def ground_baselines(self, where: tuple[str, int, str]) -> Baselines | None:
        """Of a scenario, seed and merger; `None` where something of it failed."""
        return self._made(self.design.grounds[where], "")

    def baselines(self, pairing: Pairing) -> Baselines | None:
        """What a pairing is measured with: the prepared victim's where its defense prepares the victim for the lock."""
        return self._made(self.ground(pairing), pairing.steps.reference)

    def _made(self, ground: Ground, reference: str) -> Baselines | None:
        where = (*ground.where, reference)
        if where not in self._baselines:
            alone, without, merge = (
                self.record(n) for n in (ground.alone, ground.without, reference or ground.reference)
            )
            if alone is None or without is None or merge is None:
                return None
            self._baselines[where] = Baselines.of(f"{ground.scenario}/{ground.seed}", alone, without, merge)
        return self._baselines[where]

    def theft(self, pairing: Pairing, merge: str = "") -> Vector | None:
        """Theft of a pairing's merge, or of another merge beside it."""
        name = merge or pairing.steps.merge
        key = (*self.ground(pairing).where, pairing.steps.reference, name)
        if key not in self._thefts:
            baselines, record = self.baselines(pairing), self.record(name)
            if baselines is None or record is None:
                return None
            self._thefts[key] = baselines.theft(record)
        return self._thefts[key]

    def advantage(self, pairing: Pairing) -> Vector | None:
        """Theft minus that of the same attack with the same budget from the base; `None` for attacks without data."""
        if not pairing.data:
            return None
        theft, unused = self.theft(pairing), self.theft(pairing, pairing.steps.unused)
        return None if theft is None or unused is None else theft - unused

    def counted(self, pairing: Pairing) -> Vector | None:
        """What verdicts count: theft, or the part of it that the victim was of use for."""
        counted = self.advantage(pairing) if pairing.data else self.theft(pairing)
        return None if counted is None else np.clip(counted, 0.0, 1.0)

    def _halved(self, pairing: Pairing, half: int, apart: bool) -> float | None:
        """`counted` on one half of the victim's test items."""
        if (pairing, half, apart) not in self._halves:
            merges = [(b, m) for b, m in self._merges(pairing) if b is not None and m is not None]
            if len(merges) < len(self._merges(pairing)):
                return None
            nets = [float(np.clip(b.net_point(m, half, apart=apart), 0, 1)) for b, m in merges]
            self._halves[pairing, half, apart] = nets[0] - sum(nets[1:])
        return self._halves[pairing, half, apart]

    def _scored_on(self, pairing: Pairing, half: int, apart: bool) -> Vector:
        """`counted` on one half with its resamples."""
        merges = [(b, m) for b, m in self._merges(pairing) if b is not None and m is not None]
        nets = [np.clip(b.net(m, half, apart=apart), 0.0, 1.0) for b, m in merges]
        return nets[0] - sum(nets[1:])

    def _merges(self, pairing: Pairing) -> list[tuple[Baselines | None, Merged | None]]:
        names = [pairing.steps.merge, *([pairing.steps.unused] if pairing.data else [])]
        return [(self.baselines(pairing), self.record(name)) for name in names]

    def worst(self, pairings: Sequence[Pairing]) -> tuple[Pairing, Vector] | None:
        """The worst case over pairings of one seed, at no bias from choosing.

        Where half is surely stolen, the figure is that of the pairing of which it is surest: its bound is corrected for
        the choice, and no other pairing can lower it. Elsewhere the one that is best on one half of the victim's test
        items is scored on the other half, both ways, averaged; where one is best on both halves that is its own figure.
        Among pairings of one victim the gain is that of all items, the same for each; victims differ in it, so that the
        gain then is the half's own, lest what is chosen by is in what it is scored on.

        Returns:
            The pairing, the best on all items among those that were picked, and the figure.
        """
        if (surest := self._surest(pairings)) is not None:
            return surest
        picked, apart = [], len({pairing.place.scenario for pairing in pairings}) > 1
        for half in (0, 1):
            scored = [(value, p) for p in pairings if (value := self._halved(p, half, apart)) is not None]
            if not scored:
                return None
            picked.append(max(scored, key=lambda pair: pair[0])[1])
        first, second = picked
        whole = {p: counted for p in picked if (counted := self.counted(p)) is not None}
        best = max(picked, key=lambda p: float(whole[p][0]))
        if first == second:
            return best, whole[best]
        crossed = [self._scored_on(first, 1, apart), self._scored_on(second, 0, apart)]
        return best, np.clip(np.mean(crossed, axis=0), 0.0, 1.0)

    def _surest(self, pairings: Sequence[Pairing]) -> tuple[Pairing, Vector] | None:
        fallen = []
        for pairing in pairings:
            counted, baselines = self.counted(pairing), self.baselines(pairing)
            if counted is not None and baselines is not None:
                sure = baselines.sure(counted)
                if sure >= THRESHOLDS.stolen:
                    fallen.append((sure, pairing, counted))
        return max(fallen, key=lambda one: one[0])[1:] if fallen else None

    def seed_figure(self, pairings: Sequence[Pairing]) -> SeedFigure | None:
        """The worst case over pairings of one seed, with its own interval over test items."""
        found = self.worst(pairings)
        if found is None:
            return None
        pairing, counted = found
        theft, baselines = self.theft(pairing), self.baselines(pairing)
        assert theft is not None
        assert baselines is not None
        return self.figure_of(pairing, float(theft[0]), counted, baselines)

    @staticmethod
    def figure_of(pairing: Pairing, theft: float, counted: Vector, baselines: Baselines) -> SeedFigure:
        """A vector as a row."""
        point, scale = float(counted[0]), baselines.theft_of_all
        low, high = quantiles(counted)
        blur = unseen(baselines.items) * scale
        return SeedFigure(
            seed=pairing.seed,
            key=pairing.key,
            attack=pairing.attack,
            merger=pairing.merger,
            theft=theft,
            counted=point,
            low=float(np.clip(min(low, point - blur), 0.0, 1.0)),
            high=float(np.clip(max(high, point + blur), 0.0, 1.0)),
            sure=float(np.clip(baselines.sure(counted), 0.0, 1.0)),
        )

    def seen(self, pairing: Pairing) -> float | None:
        """What an attacker without the victim's data sees of a merge, and chooses by.

        The share of the protected model's answers that came over, on inputs of the attacker's own tasks, counted from
        the companions-only merge as theft is; and by how much the own tasks' mean n, on validation data, changed.
        """
        ground = self.ground(pairing)
        names = (pairing.steps.merge, ground.without, pairing.steps.lock, ground.alone)
        merge, without, lock, alone = (self.record(name) for name in names)
        if merge is None or without is None or lock is None or alone is None:
            return None
        own = {t: alone.watched[t] - alone.chance[t] for t in alone.watched}
        change = [(merge.watched[t] - without.watched[t]) / own[t] for t in own]
        agree, start = (_agreement(record.answers, lock.answers) for record in (merge, without))
        kept = float(np.mean(change)) if change else 0.0
        return (agree - start) / (1.0 - start) + kept if start < 1.0 else kept

    def fidelity(self, pairing: Pairing) -> dict[str, Vector]:
        """Score of the protected model alone over the victim's, by the dtype that both are stored in."""
        baselines, lock = self.baselines(pairing), self.record(pairing.steps.lock)
        alone = self.record(self.ground(pairing).alone)
        if baselines is None or lock is None or alone is None or not lock.stored:
            return {}
        return {dtype: baselines.kept(lock.stored[dtype], alone.stored[dtype]) for dtype in alone.stored}

    def worth(self, pairing: Pairing) -> Vector | None:
        """The share of its skill above chance that the protected model keeps alone, in float32."""
        baselines, lock = self.baselines(pairing), self.record(pairing.steps.lock)
        alone = self.record(self.ground(pairing).alone)
        if baselines is None or lock is None or alone is None or not lock.stored:
            return None
        chance = baselines.chance[baselines.victim]
        return baselines.kept(lock.stored["float32"], alone.stored["float32"], above=chance)


@lru_cache(maxsize=8192)
def average(packed: Packed, tag: str, half: Half = None) -> Vector:
    """The mean result under every resample, from one result per test item; not to be written to."""
    drawn, results = weights(packed.n, tag), packed.unpack()
    items: Vector | int = packed.n
    if half is not None:
        chosen = halves(packed.n, tag)[half]
        results, items = results * chosen, np.maximum((drawn @ chosen.astype(np.float32)).astype(np.float64), 1.0)
    # Sums of right answers are exact in float32, and quicker.
    sums = drawn @ results.astype(np.float32) if packed.bits else drawn.astype(np.float64) @ results
    found: Vector = sums.astype(np.float64) / items
    found.setflags(write=False)
    return found


def _mean(scores: Scores) -> Vector:
    """S: the mean of n over tasks."""
    return np.asarray(np.mean(list(scores.values()), axis=0))


def _ratio(above: Vector, below: Vector) -> Vector:
    """above ÷ below; where nothing is below, nothing can be had."""
    safe = np.where(below > 0, below, 1.0)
    return np.where(below > 0, above / safe, 0.0)


def _agreement(answers: Sequence[int], others: Sequence[int]) -> float:
    return float(np.mean(np.asarray(answers) == np.asarray(others)))
