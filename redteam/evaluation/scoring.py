"""From records to scores, computed once for each pairing and kept; which pairing is the worst, at no bias."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from redteam.evaluation.baselines import Baselines
from redteam.evaluation.design import Design
from redteam.evaluation.pairings import Ground, Pairing
from redteam.evaluation.rows import SeedFigure, Status
from redteam.evaluation.statistics import Vector, quantiles, unseen
from redteam.evaluation.steps import Merged, Outcome
from redteam.evaluation.thresholds import THRESHOLDS


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
        failure = self._failure(pairing)
        return ("ok", "") if failure is None else (failure.status, failure.reason)

    def inapplicable(self, pairing: Pairing) -> bool:
        """Whether attack or merger have said that they are not for such checkpoints."""
        failure = self._failure(pairing)
        return failure is not None and failure.inapplicable

    def _failure(self, pairing: Pairing) -> Outcome | None:
        steps = pairing.steps
        names = (steps.recovered, steps.merge, steps.naive, steps.twin, steps.unused, steps.reference)
        found = (self.outcomes.get(name) for name in (*names, *self.ground(pairing)) if name)
        return next((outcome for outcome in found if outcome is not None and outcome.status != "ok"), None)

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
            merges = self._merges(pairing)
            if merges is None:
                return None
            nets = [float(np.clip(b.net_point(m, half, apart=apart), 0, 1)) for b, m in merges]
            self._halves[pairing, half, apart] = nets[0] - sum(nets[1:])
        return self._halves[pairing, half, apart]

    def _scored_on(self, pairing: Pairing, half: int, apart: bool) -> Vector:
        """`counted` on one half with its resamples, of a pairing that has it."""
        nets = [np.clip(b.net(m, half, apart=apart), 0.0, 1.0) for b, m in self._merges(pairing) or ()]
        return nets[0] - sum(nets[1:])

    def _merges(self, pairing: Pairing) -> list[tuple[Baselines, Merged]] | None:
        """The attacked merge, and where data was used that of the same attack from the base; `None` if one failed."""
        baselines, names = self.baselines(pairing), (pairing.steps.merge, pairing.steps.unused)
        records = [self.record(name) for name in names[: 1 + pairing.data]]
        if baselines is None or any(record is None for record in records):
            return None
        return [(baselines, record) for record in records]

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


def _agreement(answers: Sequence[int], others: Sequence[int]) -> float:
    return float(np.mean(np.asarray(answers) == np.asarray(others)))
