"""What a control is: it makes the pairings that it needs, and reads them once they have ended.

A new kind of control is a class like the others here, entered in `redteam.evaluation.controls.sheet`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np

from redteam.evaluation import rows as r
from redteam.evaluation.controls.gain import telling
from redteam.evaluation.design import Asked
from redteam.evaluation.layout import Layout
from redteam.evaluation.pairings import Pairing
from redteam.evaluation.resolve import Pipeline
from redteam.evaluation.rows import ControlKind, Place
from redteam.evaluation.scoring import Table
from redteam.evaluation.statistics import Interval, Vector, combine, unseen
from redteam.threat import DATA


@dataclass(frozen=True)
class Finding:
    """What came of a control.

    Attributes:
        passed: Whether it came out as it must.
        value: What was found; `None` where that is no number.
        limit: What it was held against.
        explanation: Both in a sentence.
        partial: For planted locks: whether half or more came back although it did not pass.
        p: For what is held to a mean: the p-value that the limit is passed by chance.
    """

    passed: bool
    value: float | None
    limit: float
    explanation: str
    partial: bool = False
    p: float | None = None


class Check(Protocol):
    """A kind of control."""

    @property
    def kind(self) -> ControlKind:
        """As in `Control.control`."""

    def pairings(self, asked: Asked, attack: Pipeline, table: Table) -> Iterator[Pairing]:
        """What has to be compared to say whether an attack on one place passes; nothing where it does not apply.

        The attacks on that place have ended by then, except where a plan is only looked at.
        """

    def further(self, asked: Asked, attack: Pipeline, table: Table, pairings: Sequence[Pairing]) -> Iterator[Pairing]:
        """What has to be compared beside, once the first pairings have ended; nothing for most."""
        yield from ()

    def find(self, table: Table, pairings: Sequence[Pairing]) -> Finding:
        """Reads the pairings of one row, all of which have a result."""


_OWED: tuple[ControlKind, ...] = ("planted", "extent", "weakened")
"""Controls on locks that an attack says it undoes: that it does not apply to one is no excuse."""


def anywhere(asked: Asked) -> Place:
    """Where controls count that speak of an attack, whatever the defense."""
    return Place(asked.place.scenario, "", asked.place.threat)


def on_every_seed(
    table: Table,
    asked: Asked,
    attack: Pipeline,
    lock: Callable[[Layout], str],
    *,
    place: Place,
    keys: Sequence[int] = (0,),
    **rest: Any,
) -> Iterator[Pairing]:
    """An attack on a lock under every seed, merged with the first merger that can tell something.

    Args:
        table: All scores.
        asked: The place.
        attack: The attack.
        lock: Lays out the lock.
        place: Where the pairings count.
        keys: Of the pairings.
        rest: Further arguments of `Layout.pairing`.
    """
    mergers = telling(table, asked)
    for seed, layout in asked.layouts.items():
        for key in keys:
            yield layout.pairing(place, key, attack, mergers[seed][0], lock(layout), asked.threat, **rest)


def on_nothing_locked(
    kind: ControlKind,
    table: Table,
    asked: Asked,
    attack: Pipeline,
    lock: Callable[[Layout], str],
    *,
    label: str,
    defense: Pipeline | None = None,
    data: bool = False,
) -> Iterator[Pairing]:
    """An attack proper on what has nothing to steal or is not locked, under every seed, as `on_every_seed`.

    The lock is not merged as it is.

    Args:
        kind: Of the control.
        table: All scores.
        asked: The place.
        attack: The attack.
        lock: Lays out the lock.
        label: What progress lines call the lock.
        defense: The lock's pipeline; without one the control speaks of the attack whatever the defense.
        data: Whether attacks with data of the victim's task are held to it, too.
    """
    if attack.role == "recovery" and (data or not attack.needs & DATA):
        place = anywhere(asked) if defense is None else asked.place
        yield from on_every_seed(
            table, asked, attack, lock, place=place, defense=defense, label=label, naive=False, control=kind
        )


def row(check: Check, table: Table, pairings: Sequence[Pairing]) -> r.Control | None:
    """One line about the pairings of one control; `None` where there is nothing to control."""
    first = pairings[0]
    pairings = [p for p in pairings if not _unplantable(table, p)]
    if not pairings or (check.kind not in _OWED and all(table.inapplicable(p) for p in pairings)):
        return None
    failed = [found for p in pairings if (found := table.status(p))[0] != "ok"]
    status, reason = failed[0] if failed else ("ok", "")
    finding = Finding(False, None, 0.0, reason) if failed else check.find(table, pairings)
    return r.Control(
        control=check.kind,
        scenario=first.place.scenario,
        defense=first.place.defense,
        threat=first.place.threat,
        attack=first.attack,
        site=first.site,
        group=first.group,
        passed=finding.passed,
        partial=finding.partial,
        status=status,
        value=finding.value,
        limit=finding.limit,
        p=finding.p,
        explanation=finding.explanation,
    )


def _unplantable(table: Table, pairing: Pairing) -> bool:
    """Whether there is no such site in this architecture, or none that the judged lock has changed."""
    outcome = table.outcomes.get(pairing.steps.lock)
    return outcome is not None and (outcome.inapplicable or (outcome.record is not None and not outcome.record.changed
                                                            and pairing.control in ("planted", "extent")))  # fmt: skip


def interval(
    table: Table,
    pairings: Sequence[Pairing],
    figure: Callable[[Pairing], Vector | None],
    *,
    worst: Callable[..., Any] = max,
    lowest: float = 0.0,
) -> Interval:
    """A share over seeds, of each the worst pairing; never narrower than a seed's number of test items allows."""
    baselines = {p.seed: found for p in pairings if (found := table.baselines(p)) is not None}
    blurs = [unseen(found.items) * found.theft_of_all for found in baselines.values()]
    resolution = float(np.mean(blurs)) if blurs else 0.0
    return combine(by_seed(pairings, figure, worst=worst), lowest=lowest, highest=1.0, resolution=resolution)


def by_seed(
    pairings: Sequence[Pairing], figure: Callable[[Pairing], Vector | None], *, worst: Callable[..., Any] = max
) -> list[Vector]:
    """Per seed the figure of the pairing that is worst; seeds without a figure are left out."""
    found: dict[int, list[Vector]] = {}
    for pairing in pairings:
        vector = figure(pairing)
        if vector is not None:
            found.setdefault(pairing.seed, []).append(vector)
    return [worst(vectors, key=lambda vector: vector[0]) for _, vectors in sorted(found.items())]


def over_by_chance(vectors: Sequence[Vector], limit: float) -> float:
    """The one-sided p-value that the mean over seeds is above a limit by chance alone, from resampled test items."""
    mean = np.mean(vectors, axis=0)
    return float((1 + np.count_nonzero(mean[1:] <= limit)) / len(mean))
