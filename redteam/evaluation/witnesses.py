"""Whether the failure of an attack made for a defense is evidence: what it claims, and what it was shown on."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np

from redteam.evaluation import rows as r
from redteam.evaluation.adversaries import author, own, targets
from redteam.evaluation.controls.planted import claims_of
from redteam.evaluation.controls.sheet import Sheet
from redteam.evaluation.design import Asked
from redteam.evaluation.layout import weakened
from redteam.evaluation.pairings import Pairing
from redteam.evaluation.resolve import Pipeline
from redteam.evaluation.scoring import Table
from redteam.evaluation.steps import Locked
from redteam.evaluation.thresholds import THRESHOLDS


def adversaries(
    table: Table, asked: Asked, pairings: Sequence[Pairing], sheet: Sheet, locks: Sequence[Pairing]
) -> Iterator[r.Adversary]:
    """The rows of a place's attacks that name its defense as their target.

    Args:
        table: All scores.
        asked: The place.
        pairings: What was run there, controls left out.
        sheet: Its controls.
        locks: For each seed and key, a pairing of the defense that was judged.
    """
    everywhere = {(p.seed, p.key) for p in asked.pairings}
    for text, attack in asked.attacks.items():
        if targets(attack, asked.defense):
            ran = {(p.seed, p.key) for p in pairings if p.attack == text and table.judged(p)}
            planted = sheet.pairings.get(("extent", text), ())
            yield r.Adversary(
                attack=text,
                author=author(attack),
                own=own(attack, asked.defense),
                ran=ran == everywhere,
                covers=_covers(table, asked, attack, planted, locks),
                as_strong=_as_strong(table, planted, locks),
                same_extent=_same_extent(table, asked),
            )


def _covers(table: Table, asked: Asked, attack: Pipeline, planted: Sequence[Pairing], locks: Sequence[Pairing]) -> bool:
    """Whether the claims reach every tensor that the defense changes; without claims, whether that shows nowhere.

    What seals is no change of basis, so that an attack on it has no claim to make: it proves itself on the variant.
    """
    if claims_of(attack):
        records = [table.record(p.steps.lock) for p in planted]
        return bool(records) and all(record is not None and not record.uncovered for record in records)
    if asked.sealed:
        return True
    for lock in locks:
        victim = table.record(asked.layouts[lock.seed].unlocked())
        if victim is None or _shown_at(table.record(lock.steps.lock), victim):
            return False
    return True


def _as_strong(table: Table, planted: Sequence[Pairing], locks: Sequence[Pairing]) -> bool:
    """Whether what was planted for it lies as far from the base as the defense, kind by kind."""
    return all(
        _farthest(table, planted, lock.seed, kind) * THRESHOLDS.planted_strength >= cost
        for lock in locks
        for kind, cost in table.record(lock.steps.lock).tied_cost.items()
    )


def _farthest(table: Table, planted: Sequence[Pairing], seed: int, kind: str) -> float:
    """The largest tied cost of what was planted at a kind of sites; infinite where nothing was planted there."""
    records = [table.record(p.steps.lock) for p in planted if p.seed == seed]
    costs = [plant.tied_cost.get(kind, 0.0) for plant in records if plant is not None and kind in plant.planted]
    return max(costs, default=np.inf)


def _same_extent(table: Table, asked: Asked) -> bool:
    """Whether the weakened variant locks everything that the defense itself locks.

    It changes every tensor, in every shape, and at no kind of sites where the defense shows does it lie as close to the
    base as the unlocked victim: what is changed by a hair is not locked.
    """
    weak = weakened(asked.defense)
    if weak is None:
        return False
    for layout in asked.layouts.values():
        locks = (layout.defend(asked.defense, 0), layout.defend(weak, 0), layout.unlocked())
        full, less, victim = (table.record(lock) for lock in locks)
        if full is None or less is None or not set(full.changed) <= set(less.changed) or full.shapes != less.shapes:
            return False
        if victim is not None and any(
            less.tied_cost.get(kind, np.inf) <= THRESHOLDS.planted_cost * victim.tied_cost[kind]
            for kind in _shown_at(full, victim)
        ):
            return False
    return True


def _shown_at(lock: Locked, victim: Locked) -> list[str]:
    """Kinds of sites at which it lies much farther from the base than the unlocked victim."""
    far = THRESHOLDS.planted_strength
    return [kind for kind, cost in lock.tied_cost.items() if cost >= far * victim.tied_cost.get(kind, np.inf)]
