"""Scores: how much of what the victim adds to a merge the attacker got away with.

n(m, t) = (accuracy of merge m on task t − chance) ÷ (accuracy of t's own expert − chance). Every function takes and
gives vectors over resampled test items (`redteam.evaluation.statistics`).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np

from redteam.evaluation.bits import unpack
from redteam.evaluation.statistics import Vector, weights
from redteam.evaluation.thresholds import THRESHOLDS

Scores = dict[str, Vector]
"""Task → n."""


@dataclass(frozen=True)
class Yardstick:
    """A scenario under one seed: its resamples, its experts' accuracies, and the two merges that theft lies between.

    Attributes:
        victim: The victim's task.
        companions: The other tasks.
        resamples: Task → weights of its test items.
        chance, expert: Task → accuracy of guessing and of its expert.
        without: n of the companions-only merge.
        reference: n of the merge with the unlocked victim.
    """

    victim: str
    companions: tuple[str, ...]
    resamples: Mapping[str, Vector] = field(repr=False)
    chance: Mapping[str, float]
    expert: Mapping[str, Vector] = field(repr=False)
    without: Scores = field(repr=False, default_factory=dict)
    reference: Scores = field(repr=False, default_factory=dict)

    @classmethod
    def of(
        cls, tag: str, alone: Mapping[str, Any], without: Mapping[str, Any], reference: Mapping[str, Any]
    ) -> Yardstick:
        """From the records of the experts alone and of the two merges."""
        resamples = {t: weights(packed["n"], f"{tag}/{t}") for t, packed in alone["experts"].items()}
        expert = {t: accuracy(packed, resamples[t]) for t, packed in alone["experts"].items()}
        companions = tuple(t for t in alone["experts"] if t != alone["victim"])
        bare = cls(alone["victim"], companions, resamples, alone["chance"], expert)
        return cls(
            bare.victim, companions, resamples, bare.chance, expert, bare.scores(without), bare.scores(reference)
        )

    def against(self, reference: Mapping[str, Any]) -> Yardstick:
        """The same with another reference merge, from its record."""
        return replace(self, reference=self.scores(reference))

    def scores(self, merge: Mapping[str, Any]) -> Scores:
        """n of a merge on every task, from its record."""
        return self.many_scores([merge])[0]

    def many_scores(self, merges: Sequence[Mapping[str, Any]]) -> list[Scores]:
        """The same of several merges, a product of matrices for all of them."""
        found: list[Scores] = [{} for _ in merges]
        for task, resample in self.resamples.items():
            bits = np.stack([unpack(merge["tasks"][task]) for merge in merges]).astype(np.float64)
            gap = self.expert[task] - self.chance[task]
            for scores, accuracies in zip(found, bits @ resample.T / bits.shape[1], strict=True):
                scores[task] = _ratio(accuracies - self.chance[task], gap)
        return found

    def score(self, packed: Mapping[str, Any], task: str) -> Vector:
        """n of one task."""
        gap = self.expert[task] - self.chance[task]
        return _ratio(accuracy(packed, self.resamples[task]) - self.chance[task], gap)

    @property
    def gain(self) -> Vector:
        """What the victim adds on its own task: n(reference, v) − n(without, v)."""
        return self.reference[self.victim] - self.without[self.victim]

    @property
    def items(self) -> int:
        """How many test items the victim's task has."""
        return int(self.resamples[self.victim].shape[1])

    @property
    def theft_of_all(self) -> float:
        """By how much theft changes if the victim's task goes from all wrong to all right."""
        scale = float(self.gain[0]) * (float(self.expert[self.victim][0]) - self.chance[self.victim])
        return 1.0 / scale if scale > 0 else 0.0

    def theft(self, attacked: Scores) -> Vector:
        """The share of the gain that the attacker got, 0 to 1; 0 where the companions paid for it."""
        share = np.clip(_ratio(attacked[self.victim] - self.without[self.victim], self.gain), 0.0, 1.0)
        spoiled = (
            self.mean(attacked, self.companions) < self.mean(self.reference, self.companions) - THRESHOLDS.companions
        )
        return np.where(spoiled, 0.0, share)

    def recovery(self, attacked: Scores, locked: Scores) -> Vector | None:
        """(S(attacked) − S(locked)) ÷ (S(reference) − S(locked)); `None` where the lock costs under 0.01."""
        tasks = tuple(self.chance)
        lost = self.mean(self.reference, tasks) - self.mean(locked, tasks)
        if lost[0] < 0.01:
            return None
        return _ratio(self.mean(attacked, tasks) - self.mean(locked, tasks), lost)

    def harm(self, attacked: Scores) -> Vector:
        """By how much the mean score over all tasks differs from the reference merge's."""
        tasks = tuple(self.chance)
        return self.mean(attacked, tasks) - self.mean(self.reference, tasks)

    def fidelity(self, protected: Mapping[str, Any], victim: Mapping[str, Any]) -> Vector:
        """Accuracy of the protected model alone ÷ that of the victim, both stored in the same dtype."""
        resample = self.resamples[self.victim]
        return _ratio(accuracy(protected, resample), accuracy(victim, resample))

    @staticmethod
    def mean(scores: Scores, tasks: tuple[str, ...]) -> Vector:
        """S: the mean of n over tasks."""
        return np.asarray(np.mean([scores[t] for t in tasks], axis=0))


def accuracy(packed: Mapping[str, Any], resample: Vector) -> Vector:
    """The accuracy under every resample, from one result per sample."""
    return np.asarray(resample @ unpack(packed).astype(np.float64) / packed["n"])


def _ratio(above: Vector, below: Vector) -> Vector:
    """above ÷ below; where nothing is below, nothing can be had."""
    safe = np.where(below > 0, below, 1.0)
    return np.where(below > 0, above / safe, 0.0)
