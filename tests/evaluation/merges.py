"""Records and tables of scores made by hand, without a network."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from redteam.evaluation.baselines import Baselines
from redteam.evaluation.design import Asked, Design
from redteam.evaluation.packing import Packed
from redteam.evaluation.pairings import Ground, Pairing, Steps
from redteam.evaluation.results import Place
from redteam.evaluation.scoring import Table
from redteam.evaluation.steps import Cost, Locked, Merged, Outcome, Recovered, Scored

N = 400
TASKS = ("victim", "left", "right")
PLACE = Place("toy", "lock", "weights-only")


def right(share: float, n: int = N) -> Packed:
    """That share of the items right, the first ones."""
    return Packed.of(np.arange(n) < round(share * n))


def merge(
    victim: float | Packed, left: float = 0.7, right_: float = 0.7, *, answers: Sequence[int] = (0, 0, 0, 0)
) -> Merged:
    """A merge with these accuracies."""
    made = {
        name: one if isinstance(one, Packed) else right(one)
        for name, one in zip(TASKS, (victim, left, right_), strict=True)
    }
    return Merged(made, {name: made[name].unpack().mean() for name in ("left", "right")}, list(answers), Cost(0.1))


def alone() -> Scored:
    """Experts that are right nine times of ten, at a chance of one in ten."""
    experts = {name: right(0.9) for name in TASKS}
    return Scored(
        victim="victim",
        chance=dict.fromkeys(TASKS, 0.1),
        experts=experts,
        base=dict.fromkeys(TASKS, right(0.1)),
        validation={"left": 0.9, "right": 0.9},
        watched={"left": 0.9, "right": 0.9},
        stored={"float32": experts["victim"]},
        length=1.0,
    )


def baselines(without: Merged | None = None, reference: Merged | None = None) -> Baselines:
    """The victim adds 0.3 → 0.8 in accuracy, and costs the companions a tenth."""
    return Baselines.of("toy/0", alone(), without or merge(0.3, 0.8, 0.8), reference or merge(0.8))


@dataclass
class Bench:
    """A table that pairings are entered into by what came of them."""

    design: Design = field(default_factory=Design)
    outcomes: dict[str, Outcome] = field(default_factory=dict)
    pairings: list[Pairing] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.table = Table(self.design, self.outcomes)

    def ground(
        self,
        seed: int = 0,
        merger: str = "mean",
        *,
        without: Merged | None = None,
        reference: Merged | None = None,
        scenario: str = "toy",
    ) -> Ground:
        """What everything under a seed and merger is measured against."""
        where = (scenario, seed, merger)
        if where not in self.design.grounds:
            names = {what: f"{what} {scenario} {seed} {merger}" for what in ("alone", "tune", "without", "reference")}
            self.design.grounds[where] = Ground(*where, **names)
            self.put(names["alone"], alone())
            self.put(names["tune"], None)
            self.put(names["without"], without or merge(0.3, 0.8, 0.8, answers=[0, 0, 0, 0]))
            self.put(names["reference"], reference or merge(0.8, answers=[1, 1, 1, 1]))
        return self.design.grounds[where]

    def put(self, name: str, record: Any, **outcome: Any) -> None:
        self.outcomes[name] = Outcome(**({"status": "ok"} | outcome), record=record)

    def pair(
        self,
        attack: str,
        made: Merged | Mapping[str, Any] | None,
        *,
        seed: int = 0,
        key: int = 0,
        merger: str = "mean",
        role: str = "recovery",
        unused: Merged | None = None,
        naive: Merged | None = None,
        seconds: float = 1.0,
        scenario: str = "toy",
        **rest: Any,
    ) -> Pairing:
        """An attack on the lock and the merge that came of it; a mapping says how it failed, `None` that it is open."""
        self.ground(seed, merger, scenario=scenario)
        tag = f"{attack} {scenario} {seed} {key} {merger} {rest.get('site', '')}"
        names = {what: f"{what} {tag}" for what in ("recovered", "merge")}
        lock, plain = f"lock {scenario} {seed} {key}", f"naive {scenario} {seed} {key} {merger}"
        if lock not in self.outcomes:
            self.put(
                lock,
                Locked("digest", answers=[1, 1, 1, 1], changed=["w"], dtype="float32", stored={"float32": right(0.9)}),
            )
        if naive is not None or plain not in self.outcomes:
            self.put(plain, naive or merge(0.3))
        if isinstance(made, Merged):
            self.put(names["recovered"], Recovered("digest", 0.1, {}, 0.0, Cost(seconds)))
            self.put(names["merge"], made)
        elif made is not None:
            self.put(names["recovered"], None, **made)
            self.put(names["merge"], None, **{**made, "status": "skipped"})
        if unused is not None:
            names["unused"] = f"unused {tag}"
            self.put(names["unused"], unused)
        place = Place(scenario, PLACE.defense, PLACE.threat)
        pairing = Pairing(place, seed, key, attack, role, merger, Steps(lock, naive=plain, **names), **rest)
        self.pairings.append(pairing)
        return pairing

    def asked(self) -> Asked:
        """The place, with all pairings that were entered."""
        made = Asked(PLACE, None, None)  # type: ignore[arg-type]
        made.pairings.update(dict.fromkeys(self.pairings))
        return made


def coin(generator: np.random.Generator, share: float, n: int = N) -> Merged:
    """A merge that is right on each of the victim's items with that chance."""
    return merge(Packed.of(generator.random(n) < share))
