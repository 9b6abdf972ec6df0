"""Planted locks: an attack's failure counts only where it undoes locks of the kinds that it claims to undo."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from typing import ClassVar

import numpy as np

from redteam.evaluation.controls.base import Check, Finding, anywhere
from redteam.evaluation.controls.gain import telling
from redteam.evaluation.design import Asked
from redteam.evaluation.layout import Layout
from redteam.evaluation.pairings import Pairing
from redteam.evaluation.resolve import Pipeline
from redteam.evaluation.rows import ControlKind, Place
from redteam.evaluation.scoring import Table
from redteam.evaluation.thresholds import THRESHOLDS
from redteam.symmetry import GROUPS, contains_group
from redteam.threat import DATA

_KEYS = (0, 1)  # of plants of several sites at once
_TOGETHER = "all claims at once"
_LIMIT = THRESHOLDS.planted_cost


class Planted(Check):
    """A lock from each claimed group at its kind of site, and from all of them at once."""

    kind: ClassVar[ControlKind] = "planted"

    def pairings(self, asked: Asked, attack: Pipeline, table: Table) -> Iterator[Pairing]:
        """On the unlocked victim, whatever the defense."""
        if attack.role != "recovery":
            return
        mergers = telling(table, asked)
        for seed, layout in asked.layouts.items():
            for site, group in claims_of(attack):
                lock = layout.plant(f"{group} planted at {site}", [(site, group)])
                yield _pairing(
                    layout, asked, attack, mergers[seed][0], lock, anywhere(asked), 0, self.kind, site, group
                )
            for key in _KEYS:
                claims = together(attack, key)
                if claims:
                    lock = layout.plant(_TOGETHER, claims, key)
                    yield _pairing(
                        layout, asked, attack, mergers[seed][0], lock, anywhere(asked), key, self.kind, _TOGETHER, ""
                    )

    def further(self, asked: Asked, attack: Pipeline, table: Table, pairings: Sequence[Pairing]) -> Iterator[Pairing]:
        """The merges, where the weights alone do not show that the lock is off."""
        mergers = telling(table, asked)
        for pairing in pairings:
            if not pairing.steps.merge and table.status(pairing)[0] == "ok" and _by_weights(table, pairing) is None:
                layout = asked.layouts[pairing.seed]
                yield _pairing(
                    layout,
                    asked,
                    attack,
                    mergers[pairing.seed][0],
                    pairing.steps.lock,
                    pairing.place,
                    pairing.key,
                    self.kind,
                    pairing.site,
                    pairing.group,
                    merged=True,
                )

    def find(self, table: Table, pairings: Sequence[Pairing]) -> Finding:
        """The worst seed and key decide."""
        found = [_by_weights(table, p) if not p.steps.merge else _undone(table, p) for p in pairings]
        return min((one for one in found if one is not None), key=lambda finding: (finding.passed, finding.partial))


class Extent(Planted):
    """A lock at all the sites that the judged one changed, as far as the attack's claims reach, at once."""

    kind: ClassVar[ControlKind] = "extent"

    def pairings(self, asked: Asked, attack: Pipeline, table: Table) -> Iterator[Pairing]:
        """On the unlocked victim, for each defense."""
        if attack.role != "recovery":
            return
        mergers = telling(table, asked)
        for seed, layout in asked.layouts.items():
            for key in _KEYS:
                claims = together(attack, key)
                if claims:
                    judged = table.record(layout.defend(asked.defense, 0))
                    # Equal extents are one plant, whatever the defense; of a lock that failed there is none.
                    changed = (f"what {asked.place.defense} changes",) if judged is None else judged.changed
                    lock = layout.plant(f"at {len(changed)} tensors", claims, key, changed)
                    merger, place = mergers[seed][0], asked.place
                    yield _pairing(layout, asked, attack, merger, lock, place, key, self.kind, "the lock's extent", "")


def claims_of(attack: Pipeline) -> list[tuple[str, str]]:
    """What a pipeline claims to break: (kind of site, name of the group) of any of its links."""
    claims = {(site, group.name) for link in attack.links for site, group in link.spec.breaks}
    return sorted(claims)


def together(attack: Pipeline, key: int) -> list[tuple[str, str]]:
    """One claim for each kind of site: its largest group, or one of the largest where none of them contains the others.

    Args:
        attack: The attack.
        key: Counts through the largest ones.
    """
    kinds: dict[str, list[str]] = {}
    for site, group in claims_of(attack):
        kinds.setdefault(site, []).append(group)
    chosen = []
    for site, groups in kinds.items():
        largest = [g for g in groups if not any(g != o and contains_group(GROUPS[o], GROUPS[g]) for o in groups)]
        chosen.append((site, largest[key % len(largest)]))
    return chosen


def _pairing(
    layout: Layout,
    asked: Asked,
    attack: Pipeline,
    merger: Pipeline,
    lock: str,
    place: Place,
    key: int,
    kind: ControlKind,
    site: str,
    group: str,
    *,
    merged: bool = False,
) -> Pairing:
    merged = merged or bool(attack.needs & DATA)
    twin = layout.attack(asked.threat, attack, layout.unlocked(), "unlocked victim", 0)
    return layout.pairing(
        place,
        key,
        attack,
        merger,
        lock,
        asked.threat,
        None,
        label=f"{group} planted at {site}".strip() if group else f"a planted lock ({site})",
        twin=twin,
        merged=merged,
        naive=merged,
        control=kind,
        site=site,
        group=group,
    )


def _by_weights(table: Table, pairing: Pairing) -> Finding | None:
    """That a planted lock is off, where the weights show it alone.

    They are as close to the base as they come without the lock (tied cost), at every kind of site at which the lock
    shows in it, and the function is that of the protected model, so that the victim was not thrown away.
    """
    attacked = table.record(pairing.steps.recovered)
    ratios = _closeness(table, pairing)
    kept = attacked.change is not None and attacked.change <= THRESHOLDS.function
    if not kept or len(ratios) < len(table.record(pairing.steps.lock).planted) or _farthest(ratios)[1] > _LIMIT:
        return None
    return _close(pairing, ratios)


def _undone(table: Table, pairing: Pairing) -> Finding:
    """Whether one planted lock came off, its merges included.

    Where the weights do not show it alone: the function changes as it does on the unlocked victim, and the skill is
    back (theft). Theft alone would not see a forgotten bias, and closeness alone not that the victim was thrown away;
    attacks with data are held to what the victim was of use for.
    """
    shown = None if pairing.data else _by_weights(table, pairing)
    if shown is not None:
        return shown
    attacked, twin = table.record(pairing.steps.recovered), table.record(pairing.steps.twin)
    naive, stolen = table.theft(pairing, pairing.steps.naive), table.counted(pairing)
    assert naive is not None
    assert stolen is not None
    protection, theft = 1.0 - float(naive[0]), float(stolen[0])
    partial = protection >= THRESHOLDS.planted_protection and theft >= THRESHOLDS.stolen
    ratios = _closeness(table, pairing)
    if ratios and not pairing.data and _farthest(ratios)[1] > _LIMIT:
        return replace(_close(pairing, ratios), partial=partial)
    changes = [attacked.change, twin.change]
    if not pairing.data and (None in changes or abs(changes[0] - changes[1]) > THRESHOLDS.function):
        shown_by = " and ".join("beyond measure" if change is None else f"by {change:.2g}" for change in changes)
        told = (
            f"{pairing.attack} changes the function {shown_by}, with the planted lock and without; the same is expected"
        )
        return Finding(False, None, THRESHOLDS.function, told, partial=partial)
    if protection < THRESHOLDS.planted_protection:
        told = f"the planted lock is too weak to prove anything: its protection is {protection:.2f}"
        return Finding(False, protection, THRESHOLDS.planted_protection, told)
    told = f"{pairing.attack} steals {theft:.2f} from the planted lock; at least {THRESHOLDS.planted_theft}"
    passed = theft >= THRESHOLDS.planted_theft
    return Finding(passed, theft, THRESHOLDS.planted_theft, told, partial=partial and not passed)


def _closeness(table: Table, pairing: Pairing) -> dict[str, tuple[float, float]]:
    """Kind of site → tied cost after the attack, and under the lock, over what the attack leaves on an unlocked victim.

    Of the kinds at which the lock shows in the tied cost, so that its coming off does, too.
    """
    names = (pairing.steps.lock, pairing.steps.recovered, pairing.steps.twin)
    lock, attacked, twin = (table.record(name).tied_cost for name in names)
    return {
        kind: (attacked.get(kind, np.inf) / twin[kind], lock[kind] / twin[kind])
        for kind in table.record(pairing.steps.lock).planted
        if twin.get(kind, 0.0) > 0 and lock.get(kind, 0.0) >= THRESHOLDS.planted_strength * twin[kind]
    }


def _farthest(ratios: Mapping[str, tuple[float, float]]) -> tuple[str, float, float]:
    """The kind of site at which an attack stays farthest from the base, and both ratios there."""
    kind = max(ratios, key=lambda kind: ratios[kind][0])
    return kind, *ratios[kind]


def _close(pairing: Pairing, ratios: Mapping[str, tuple[float, float]]) -> Finding:
    kind, left, locked = _farthest(ratios)
    told = (
        f"{pairing.attack} leaves {left:.4g} times the tied cost at {kind} that it leaves on the unlocked victim (the "
        f"lock: {locked:.3g}); at most {_LIMIT}"
    )
    return Finding(left <= _LIMIT, left if np.isfinite(left) else None, _LIMIT, told)
