"""A merge against its scenario: n of every task, what the victim adds, and what an attacker nets of that.

n(m, t) = (score of merge m on task t − chance) ÷ (what t's own expert has − chance), each the mean of one result
per test item: an accuracy, or whatever else the task counts. An expert has what it shows, its score, unless the task
says that there is more (`Task.held`). Every figure is a vector as `redteam.evaluation.statistics` describes it.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from functools import cached_property, lru_cache

import numpy as np

from redteam.evaluation.packing import Packed
from redteam.evaluation.statistics import Interval, Vector, combine, halves, sure_bound, weights
from redteam.evaluation.steps import Merged, Scored
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
        copied_on: Companions' task → the results of the victim's model there, nothing merged.
        shown: The results of the victim's own model as it is, which may have more in it than it shows.
        without, reference: The companions-only merge, and the merge with the unlocked victim.
    """

    tag: str
    victim: str
    companions: tuple[str, ...]
    chance: Mapping[str, float]
    expert: Mapping[str, Vector] = field(repr=False)
    copied_on: Mapping[str, Packed] = field(repr=False)
    shown: Packed = field(repr=False)
    without: Merged = field(repr=False)
    reference: Merged = field(repr=False)

    @classmethod
    def of(cls, tag: str, alone: Scored, without: Merged, reference: Merged) -> Baselines:
        """From the records of the experts alone and of the two merges."""
        expert = {task: average(packed, f"{tag}/{task}") for task, packed in alone.experts.items()}
        companions = tuple(task for task in alone.experts if task != alone.victim)
        shown = alone.beside[0][1] if alone.beside else alone.experts[alone.victim]
        return cls(
            tag, alone.victim, companions, alone.chance, expert, alone.copied or alone.base, shown, without, reference
        )

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

    @cached_property
    def gained(self) -> Interval:
        """The same with its interval over test items."""
        return combine([self.gain])

    @cached_property
    def copied(self) -> Vector:
        """What theft would count of the victim's model as it is, with nothing merged, under the heads of all tasks.

        Where that is much, the merge with the unlocked victim keeps so little of the companions that it is the victim
        over again: a merge of any lock that gives way to the locked model whole would count as theft.
        """
        net = self.score(self.shown, self.victim) - self.without_scores[self.victim] - self._lost(self.copied_on)
        return np.clip(_ratio(net, self.gain), 0.0, 1.0)

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
        return self._lost(merge.tasks)

    def _lost(self, results: Mapping[str, Packed]) -> Vector:
        lost = [
            np.clip(self.reference_scores[t] - self.score(results[t], t) - THRESHOLDS.companions, 0.0, None)
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
