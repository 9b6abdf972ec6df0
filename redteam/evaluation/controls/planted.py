"""Planted locks: an attack's failure counts only where it undoes locks of the kinds that it claims to undo."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import ClassVar

import numpy as np

from redteam.evaluation.controls.base import Finding, anywhere
from redteam.evaluation.design import Asked, Layout, Pairing
from redteam.evaluation.resolve import Pipeline
from redteam.evaluation.results import ControlKind, Place
from redteam.evaluation.scoring import Table
from redteam.evaluation.thresholds import THRESHOLDS
from redteam.symmetry import GROUPS, contains_group

_KEYS = (0, 1)  # of plants of several sites at once
_TOGETHER = "all claims at once"


class Planted:
    """A lock from each claimed group at its kind of site, and from all of them at once."""

    kind: ClassVar[ControlKind] = "planted"

    def pairings(self, asked: Asked, attack: Pipeline) -> Iterator[Pairing]:
        """On the unlocked victim, whatever the defense."""
        if attack.role != "recovery":
            return
        for layout in asked.layouts.values():
            for site, group in claims_of(attack):
                lock = layout.plant(f"{group} planted at {site}", [(site, group)])
                yield _pairing(layout, asked, attack, lock, anywhere(asked), 0, self.kind, site, group)
            for key in _KEYS:
                claims = together(attack, key)
                if claims:
                    lock = layout.plant(_TOGETHER, claims, key)
                    yield _pairing(layout, asked, attack, lock, anywhere(asked), key, self.kind, _TOGETHER, "")

    def find(self, table: Table, pairings: Sequence[Pairing]) -> Finding:
        """The worst seed and key decide."""
        return min((_undone(table, p) for p in pairings), key=lambda found: (found.passed, found.partial))


class Extent(Planted):
    """A lock at all the sites that the judged one changed, as far as the attack's claims reach, at once."""

    kind: ClassVar[ControlKind] = "extent"

    def pairings(self, asked: Asked, attack: Pipeline) -> Iterator[Pairing]:
        """On the unlocked victim, for each defense."""
        if attack.role != "recovery":
            return
        for layout in asked.layouts.values():
            for key in _KEYS:
                claims = together(attack, key)
                if claims:
                    judged = layout.defend(asked.defense, 0)
                    label = f"of the extent of {asked.place.defense}"
                    lock = layout.plant(label, claims, key, judged)
                    yield _pairing(layout, asked, attack, lock, asked.place, key, self.kind, "the lock's extent", "")


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
    lock: str,
    place: Place,
    key: int,
    kind: ControlKind,
    site: str,
    group: str,
) -> Pairing:
    merger = layout.mergers(asked.threat)[0]
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
        control=kind,
        site=site,
        group=group,
    )


def _undone(table: Table, pairing: Pairing) -> Finding:
    """Whether one planted lock came off.

    The weights are as close to the base as they come without the lock (tied cost), and where the function is not kept
    it changes as on the unlocked victim, and the skill is back (theft). Theft alone would not see a forgotten bias, and
    closeness alone not that the victim was thrown away; attacks with data are held to what the victim was of use for.
    """
    lock, attacked, twin = (
        table.record(name) for name in (pairing.steps.lock, pairing.steps.recovered, pairing.steps.twin)
    )
    if twin is None:
        reason = "the same attack on the unlocked victim could not be computed"
        return Finding(False, 0.0, THRESHOLDS.planted_cost, reason)
    naive, stolen = table.theft(pairing, pairing.steps.naive), table.counted(pairing)
    assert naive is not None
    assert stolen is not None
    protection, theft = 1.0 - float(naive[0]), float(stolen[0])
    partial = protection >= THRESHOLDS.planted_protection and theft >= THRESHOLDS.stolen
    strong = [kind for kind in lock.planted if _is_strong(lock.tied_cost.get(kind, 0.0), twin.tied_cost.get(kind, 0.0))]
    if strong:
        ratios = {kind: attacked.tied_cost.get(kind, np.inf) / twin.tied_cost[kind] for kind in strong}
        worst = max(ratios, key=ratios.__getitem__)
        closeness, locked = ratios[worst], lock.tied_cost[worst] / twin.tied_cost[worst]
        close = closeness <= THRESHOLDS.planted_cost
        told = (
            f"{pairing.attack} leaves {closeness:.4g} times the tied cost at {worst} that it leaves on the unlocked "
            f"victim (the lock: {locked:.3g}); at most {THRESHOLDS.planted_cost}"
        )
        kept = attacked.change is not None and attacked.change <= THRESHOLDS.function
        if (not close and not pairing.data) or (kept and len(strong) == len(lock.planted)) or (kept and not close):
            value = closeness if np.isfinite(closeness) else None
            return Finding(close, value, THRESHOLDS.planted_cost, told, partial=partial and not close)
    changes = [attacked.change, twin.change]
    if not pairing.data and (None in changes or abs(changes[0] - changes[1]) > THRESHOLDS.function):
        shown = " and ".join("beyond measure" if change is None else f"by {change:.2g}" for change in changes)
        told = f"{pairing.attack} changes the function {shown}, with the planted lock and without; the same is expected"
        return Finding(False, None, THRESHOLDS.function, told, partial=partial)
    if protection < THRESHOLDS.planted_protection:
        told = f"the planted lock is too weak to prove anything: its protection is {protection:.2f}"
        return Finding(False, protection, THRESHOLDS.planted_protection, told)
    told = f"{pairing.attack} steals {theft:.2f} from the planted lock; at least {THRESHOLDS.planted_theft}"
    passed = theft >= THRESHOLDS.planted_theft
    return Finding(passed, theft, THRESHOLDS.planted_theft, told, partial=partial and not passed)


def _is_strong(locked: float, unlocked: float) -> bool:
    """Whether the lock shows in the tied cost, so that its coming off does, too."""
    return unlocked > 0 and locked >= THRESHOLDS.planted_strength * unlocked
