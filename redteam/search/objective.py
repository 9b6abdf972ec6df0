"""Theft and cost of a pipeline on tuning data: the evaluation's own steps, scored on the validation splits.

The victim's validation data stand where the test data stand otherwise, which are never read, and the lock lies under a
key that no evaluation scores with.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from redteam.errors import BadInput, PluginFault
from redteam.evaluation.design import Design
from redteam.evaluation.layout import Layout, withheld
from redteam.evaluation.load_scenarios import load_scenarios
from redteam.evaluation.pairings import Pairing
from redteam.evaluation.resolve import Part, Pipeline, Resolved
from redteam.evaluation.rows import Place
from redteam.evaluation.runner.pool import Pool
from redteam.evaluation.runner.scheduler import Scheduler, behind
from redteam.evaluation.runner.store import Store
from redteam.evaluation.scoring import Table
from redteam.evaluation.steps import Step
from redteam.evaluation.thresholds import THRESHOLDS
from redteam.plugins.registry import ATTACKS, MERGERS
from redteam.tasks import Split

SPLIT: Split = "validation"
STREAM = "tuning"
"""The stream of the defender's key that is tuned under; evaluations draw on the key itself and on other streams."""


@dataclass(frozen=True)
class Measured:
    """What came of a pipeline.

    Attributes:
        status: `"ok"`, `"skipped"` (it does not apply here), `"error"` or `"timeout"`.
        reason: Why there are no figures.
        theft: 0 to 1, on the tuning data.
        seconds, labels, steps: What it cost; seconds of CPU time.
    """

    status: str
    reason: str = ""
    theft: float | None = None
    seconds: float | None = None
    labels: int | None = None
    steps: int | None = None


class Objective:
    """One scenario, seed, defense, merger and threat model, on tuning data.

    Args:
        resolved: A plan of one of each.
        root: Where finished steps go; what lies there is not computed again.
        pool: Where it is computed; without one in this process, without time limits.
        tell: Told of the scenario before it is loaded.

    Raises:
        RedteamError: If the scenario or the defense fails, or theft means nothing here.
    """

    def __init__(
        self,
        resolved: Resolved,
        root: Path,
        *,
        pool: Pool | None = None,
        tell: Callable[[str, int], None] = lambda *_: None,
    ) -> None:
        self.store = Store(root)
        (part,) = resolved.parts
        ((where, self.identity),) = load_scenarios(resolved, self.store, pool=None, tell=tell, sizes=False).items()
        self.design = Design()
        self.layout = TuningLayout(self.design.steps, part, part.scenarios[0], where[1], self.identity)
        self.design.grounds.update((ground.where, ground) for ground in self.layout.grounds())
        (self.defense,), (self.threat,) = part.defenses, part.threats
        mergers = self.layout.mergers(self.threat)
        if not mergers:
            first = part.mergers[0]
            others = MERGERS.names_where(lambda spec: not spec.needs_base and not spec.needs)
            raise BadInput(
                f"The merger {first.text} needs {withheld(first, self.threat)}, which {self.threat.name} withholds; "
                f"name one that needs none: {' or '.join(f'--merger {name}' for name in others)}."
            )
        self.merger = mergers[0]
        self.lock = self.layout.defend(self.defense, 0)
        self.scheduler = Scheduler(self.store, pool=pool, time_limit=None, settled=_ignore)
        self.table = Table(self.design, self.scheduler.outcomes)
        (naive,) = (attack for attack in part.attacks if attack.role == "naive")
        self.naive = self._ground(naive)
        self.scheduler.time_limit = resolved.plan.time_limit  # of trials: a lock may take longer to put on

    def measure(self, pipeline: str) -> Measured:
        """Attacks, merges and scores; what was computed before is only read."""
        pairing = self._computed(Pipeline.load(ATTACKS, pipeline, Path()))
        status, reason = self.table.status(pairing)
        theft = self.table.theft(pairing)
        if status != "ok" or theft is None:
            return Measured(status if status != "ok" else "error", reason or "its merge could not be scored")
        cost = self.table.record(pairing.steps.recovered).cost
        return Measured("ok", "", float(theft[0]), float(cost.seconds), int(cost.labels), int(cost.steps))

    def _ground(self, naive: Pipeline) -> float:
        """Theft without any attack; whether the scenario and the lock work is found out on the way."""
        pairing = self._computed(naive)
        for step in self._steps(pairing):
            outcome = self.scheduler.outcomes[step.name]
            if outcome.status != "ok":
                raise PluginFault(f"Nothing can be searched here: {step.label}: {outcome.reason}.")
        theft, baselines = self.table.theft(pairing), self.table.baselines(pairing)
        assert theft is not None
        assert baselines is not None
        if baselines.gain[0] < THRESHOLDS.gain:
            raise BadInput(
                f"The victim adds {baselines.gain[0]:.3f} to the merge here, and theft means nothing under "
                f"{THRESHOLDS.gain}; take another scenario, seed or merger."
            )
        return float(theft[0])

    def _computed(self, attack: Pipeline) -> Pairing:
        place = Place(self.layout.scenario.text, self.defense.text, self.threat.name)
        pairing = self.layout.pairing(place, 0, attack, self.merger, self.lock, self.threat, self.defense)
        # What labels buy anyway is told apart on the scoring data alone.
        pairing = replace(pairing, steps=replace(pairing.steps, unused=""))
        self.scheduler.add(self._steps(pairing))
        self.scheduler.run()
        return pairing

    def _steps(self, pairing: Pairing) -> list[Any]:
        return behind(self.design.steps, (*pairing.steps, *self.table.ground(pairing)))


class TuningLayout(Layout):
    """Scores on the validation data, and lays every lock under the tuning stream of its key."""

    def __init__(
        self, steps: dict[str, Step], part: Part, scenario: Pipeline, seed: int, identity: str, *, split: Split = SPLIT
    ) -> None:
        super().__init__(steps, part, scenario, seed, identity, split=split)

    def lock(
        self, label: str, settings: dict[str, Any], how: dict[str, Any], key: int, inputs: dict[str, str] | None = None
    ) -> str:
        stream = str(settings.get("stream", ""))
        if not stream.startswith(STREAM):  # what goes back to another lock is under that one's stream already
            stream = f"{STREAM} {stream}".strip()
        return super().lock(label, {**settings, "stream": stream}, how, key, inputs)

    def step(
        self,
        kind: Any,
        label: str,
        settings: dict[str, Any],
        inputs: dict[str, str],
        how: dict[str, Any] | None = None,
        makes: bool = False,
    ) -> str:
        # Who is given the owner's key holds the one that the lock is under.
        held = {**settings, "stream": STREAM} if kind == "attack" else settings
        return super().step(kind, label, held, inputs, how, makes)


def _ignore(*_: Any) -> None:
    """Trials are reported as wholes, not step by step."""
