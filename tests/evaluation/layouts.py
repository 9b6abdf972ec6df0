"""Plans laid out without loading their scenario, and records of their steps made by hand: a run without a network."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from redteam.evaluation.design import Asked, Design, build
from redteam.evaluation.pairings import Pairing
from redteam.evaluation.plan import Plan
from redteam.evaluation.progress import Progress
from redteam.evaluation.resolve import Ensemble, Pipeline, Resolved
from redteam.evaluation.scoring import Table
from redteam.evaluation.steps import Cost, Locked, Outcome, Recovered, Step
from redteam.plugins.reference import Reference
from redteam.plugins.registry import ATTACKS
from tests.evaluation.merges import alone, merge, right

TOY = str(Reference(f"{Path(__file__).with_name('toy.py')}@toy"))


def resolved(plan: Mapping[str, Any], ladder: Sequence[str] = ()) -> Resolved:
    """A plan on the toy with its plugins imported.

    Args:
        plan: What it says beside the scenario.
        ladder: The members of a gauntlet that its first product has beside.
    """
    made = Resolved.of(Plan.of({"scenarios": [TOY], **plan}), Path())
    if not ladder:
        return made
    gauntlet = Ensemble("ladder", tuple(Pipeline.load(ATTACKS, text, Path()) for text in ladder))
    first, *others = made.parts
    return replace(made, parts=(replace(first, gauntlets=(gauntlet,)), *others))


def laid(made: Resolved, digests: Mapping[int, str] | None = None) -> Design:
    """A plan laid out; of each seed the digest of its weights and data, by default another one for each."""
    return build(made, {where: (digests or {}).get(where[1], f"digest of seed {where[1]}") for where in made.places})


class Watched:
    """A plan's only place, and the outcomes of the steps that it asks for.

    Args:
        plan: What it says beside the scenario.
        thefts: Attack → what it steals; nothing by default, but everything for whoever has everything.
        floors: Attack → what it steals from a victim that was never trained.
        ladder: The members of a gauntlet.
        shown: Whether weights alone show that a planted lock is off.
    """

    def __init__(
        self,
        plan: Mapping[str, Any],
        thefts: Mapping[str, float] | None = None,
        *,
        floors: Mapping[str, float] | None = None,
        ladder: Sequence[str] = (),
        shown: bool = True,
    ) -> None:
        made = resolved(plan, ladder)
        self.design = laid(made)
        self.thefts = {"key-holder": 1.0, "train-anew": 1.0, **(thefts or {})}
        self.floors, self.shown = floors or {}, shown
        self.outcomes: dict[str, Outcome] = {}
        self.table = Table(self.design, self.outcomes)
        everything = made.plan.controls == "all"
        self.progress = Progress(self.asked, made.pipelines("attacks"), everything=everything)

    @property
    def asked(self) -> Asked:
        (asked,) = self.design.asked.values()
        return asked

    def more(self) -> list[Pairing]:
        """What is asked for next on the way to the verdict; what is shown beside it comes last and decides nothing."""
        idle = all(map(self.table.ended, self.progress.wanted))
        asked = self.progress.more(self.table, idle=idle)[0]
        self.beside = [pairing for pairing in asked if pairing.role == "interface"]
        assert not self.beside or self.progress.decision is not None
        return [pairing for pairing in asked if pairing.role != "interface"]

    def end(self, pairings: Iterable[Pairing]) -> None:
        """Everything behind the pairings has ended."""
        for pairing in pairings:
            for name in (*pairing.steps, *self.table.ground(pairing)):
                if name not in self.outcomes:
                    self.outcomes[name] = Outcome("ok", self._record(self.design.steps[name]))

    def to_the_end(self) -> list[list[Pairing]]:
        """All that is asked for, turn by turn, each once everything before it has ended."""
        turns = []
        while more := self.more():
            turns.append(more)
            self.end(more)
            assert len(turns) < 50, "it asks for ever"
        return turns

    def _record(self, step: Step) -> Any:
        if step.kind == "alone":
            return alone()
        if step.kind == "lock":
            return self._locked(step)
        if step.kind == "attack":
            return self._recovered(step)
        return merge(0.3 + 0.5 * self._stolen(step)) if step.kind == "merge" else None

    def _locked(self, step: Step) -> Locked:
        kinds = sorted({kind for kind, _ in step.settings.get("plant", ())})
        costs, stored = dict.fromkeys(kinds, 10.0), {"float32": right(0.9)}
        return Locked(
            "digest", ["w"], answers=[0] * 4, planted=kinds, tied_cost=costs, change=0.0, dtype="float32", stored=stored
        )

    def _recovered(self, step: Step) -> Recovered:
        lock = self.design.steps[step.inputs["lock"]]
        costs = dict.fromkeys(("qk", "vo", "mlp", "residual"), 1.0)
        return Recovered("digest", 0.1, costs, 0.0 if self.shown or "plant" not in lock.settings else None, Cost(1.0))

    def _stolen(self, step: Step) -> float:
        if "victim" not in step.inputs:
            return 0.0
        victim = self.design.steps[step.inputs["victim"]]
        attack = victim.settings["attack"][-1][0] if victim.kind == "attack" else "none"
        lock = self.design.steps[victim.inputs["lock"]] if victim.kind == "attack" else victim
        if lock.settings.get("fresh"):
            return self.floors.get(attack, 0.0)
        if lock.settings.get("unlocked"):
            return 1.0
        if "plant" in lock.settings:
            return float(attack != "none")
        return self.thefts.get(attack, 0.0) if "defense" in lock.settings else 0.0
