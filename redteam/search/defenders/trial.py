"""One defense tried as an ordinary run tries it, on tuning data: the cheapest attacks first, the controls that count.

Nothing is attacked that is worth nothing to its owner, and the gauntlet ends as soon as nearly everything is stolen, so
that most trials are short. What attacks and controls have in common with earlier trials is read from the store.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from redteam.errors import BadInput, PluginFault, RedteamError
from redteam.evaluation.design import Asked, Design
from redteam.evaluation.load_scenarios import Where, load_scenarios
from redteam.evaluation.pairings import Pairing
from redteam.evaluation.plan import Plan
from redteam.evaluation.preview import laid_out
from redteam.evaluation.resolve import Resolved
from redteam.evaluation.results import FALLEN, WITHOUT_FIGURE, Figure, Verdict
from redteam.evaluation.run import engine_of
from redteam.evaluation.runner.pool import Pool
from redteam.evaluation.runner.scheduler import Scheduler, behind
from redteam.evaluation.runner.store import Store
from redteam.evaluation.scoring import Table
from redteam.evaluation.statistics import Interval, combine
from redteam.evaluation.steps import Cost, Locked
from redteam.evaluation.summarize import Summary
from redteam.evaluation.thresholds import THRESHOLDS
from redteam.evaluation.verdict import Evidence
from redteam.events import Observer
from redteam.search.defenders.price import OwnersPrice
from redteam.search.objective import TuningLayout


@dataclass(frozen=True)
class Tried:
    """What came of a defense; as the fields of `redteam.search.defenders.results.Trial`."""

    status: str
    reason: str = ""
    verdict: str = ""
    theft: Interval | None = None
    attack: str = ""
    spared: bool = False
    fidelity: Interval | None = None
    dtype: str = ""
    price: OwnersPrice | None = None


class Trials:
    """One scenario, seed, merger, threat model and set of attacks, on tuning data.

    Args:
        plan: What is tried of a defense; the plan without any shows whether anything can be told.
        root: Where finished steps go.
        pool: Where they are computed; without one in this process, without time limits.
        workers: Its processes.
        tell: Told of the scenario before it is loaded.

    Attributes:
        naive: The victim as it is.
        imitation: Theft by whoever only runs the model; `None` where nobody imitates.

    Raises:
        RedteamError: If the scenario fails, theft means nothing there, or nobody can say what fine-tuning costs.
    """

    def __init__(
        self,
        plan: Callable[[str | None], Plan],
        root: Path,
        *,
        pool: Pool | None,
        workers: int,
        tell: Callable[[str, int], None] = lambda *_: None,
    ) -> None:
        self.plan, self.pool, self.workers, self.store = plan, pool, workers, Store(root)
        resolved = Resolved.of(plan(None), Path())
        (part,) = resolved.parts
        if not part.threats[0].weights:
            raise BadInput(
                f"Under {part.threats[0].name} nobody sees weights, so that no protection of them can be told from "
                "another; name another threat model with --threat."
            )
        self.identities: dict[Where, str] = load_scenarios(resolved, self.store, pool=pool, tell=tell)
        (self.identity,) = self.identities.values()
        self.anew = Cost(0.0)
        self.imitation: Interval | None = None
        self.naive = self._unprotected(resolved)

    def measure(self, defense: str) -> Tried:
        """Puts it on, attacks, merges and scores; what was computed before is only read."""
        try:
            return self._tried(Resolved.of(self.plan(defense), Path()))[0]
        except RedteamError as error:
            return Tried("error", str(error).rstrip("."))

    def _unprotected(self, resolved: Resolved) -> Tried:
        """The victim as it is, with what every trial is measured against.

        Raises:
            RedteamError: If nothing can be told.
        """
        design, asked = self._laid_out(resolved)
        anew = [pairing.steps.recovered for pairing in asked.later if pairing.role == "anew"]
        scheduler = self._scheduler(resolved)
        scheduler.add(behind(design.steps, anew))
        scheduler.run()
        ended = [scheduler.outcomes[name] for name in anew]
        costs = [outcome.record.cost for outcome in ended if outcome.status == "ok"]
        if not costs or costs[0].seconds <= 0:
            why = next((outcome.reason for outcome in ended), "no attack trains one anew")
            raise PluginFault(f"Nobody can say what fine-tuning the victim costs, which prices are counted in: {why}.")
        self.anew = costs[0]
        tried, verdict = self._tried(resolved)
        if verdict is None or verdict.verdict in WITHOUT_FIGURE or tried.theft is None:
            why = verdict.reason if verdict is not None else tried.reason
            raise BadInput(f"No protection can be searched for here, since nothing can be told of the victim: {why}.")
        self.imitation = verdict.imitation
        return tried

    def _tried(self, resolved: Resolved) -> tuple[Tried, Verdict | None]:
        design, asked = self._laid_out(resolved)
        found = self._put_on(resolved, design, asked)
        if found.status != "ok":
            return found, None
        engine = engine_of(
            resolved,
            design,
            self.store,
            self.identities,
            pool=self.pool,
            workers=self.workers,
            observer=Observer(),
        )
        engine.run()
        summary = Summary(design, engine.table, engine.places)
        (verdict,), (subject,) = summary.verdicts, summary.subjects
        self.store.clear_work()
        theft = verdict.counted or verdict.theft
        if verdict.verdict in WITHOUT_FIGURE or theft is None:
            return _without(found, f"{verdict.verdict}: {verdict.reason}"), verdict
        if subject.missing and verdict.verdict == "INCONCLUSIVE":
            return _without(found, f"not everything ran: {'; '.join(subject.missing)}"), verdict
        (place,) = engine.places
        evidence = place.evidence(engine.table, place.sheet.rows(engine.table))
        if verdict.verdict not in FALLEN and not any(_tells(evidence, figure) for figure in evidence.figures):
            return _without(found, "no attack that was shown to work applies to it"), verdict
        stopped = any(member not in place.run for case in asked.cases if case.gauntlet for member in case.members)
        return _with(found, verdict=verdict.verdict, theft=theft, attack=verdict.attack, spared=stopped), verdict

    def _put_on(self, resolved: Resolved, design: Design, asked: Asked) -> Tried:
        """What the defense costs its owner, before anybody attacks it."""
        scheduler = self._scheduler(resolved)
        table = Table(design, scheduler.outcomes)
        naive = next(pairing for pairing in asked.pairings if pairing.role == "naive")
        steps = [*naive.steps, *table.ground(naive)]
        scheduler.add(behind(design.steps, steps))
        scheduler.run()
        lock = scheduler.outcomes[naive.steps.lock]
        status, reason = (lock.status, lock.reason) if lock.status != "ok" else table.status(naive)
        if status != "ok":
            return Tried(status, reason.rstrip("."))
        locks = self._locks(design, table, naive)
        fidelity = table.fidelity(naive)[locks[-1].dtype]
        worth = table.worth(naive)
        found = Tried(
            "ok",
            fidelity=combine([fidelity], lowest=0.0),
            dtype=locks[-1].dtype,
            price=OwnersPrice.of(locks, self.anew),
        )
        kept = None if worth is None else combine([worth])
        if kept is not None and kept.high < THRESHOLDS.stolen:
            return _without(found, f"alone it keeps {kept} of the victim's skill: there is nothing left to protect")
        return found

    def _locks(self, design: Design, table: Table, pairing: Pairing) -> list[Locked]:
        """The lock, the last one, after what prepares the victim for it."""
        before = design.steps[pairing.steps.lock].inputs.get("prepared")
        return [table.record(name) for name in (before, pairing.steps.lock) if name]

    def _laid_out(self, resolved: Resolved) -> tuple[Design, Asked]:
        design, _ = laid_out(resolved, self.identities, TuningLayout)
        if not design.asked:
            raise BadInput(
                f"No merger of {', '.join(merger.text for merger in resolved.parts[0].merging)} can be used under "
                f"{resolved.parts[0].threats[0].name}; name another with --merger."
            )
        (asked,) = design.asked.values()
        return design, asked

    def _scheduler(self, resolved: Resolved) -> Scheduler:
        return Scheduler(self.store, pool=self.pool, time_limit=resolved.plan.time_limit, settled=_ignore)


def _tells(evidence: Evidence, figure: Figure) -> bool:
    """Whether it is an attack that ran here, and that undoes at least in part what it claims to undo.

    A verdict is content with attacks that would work elsewhere, and says that none made for the defense counts; here
    nobody reads that, and what no attack is for would win.
    """
    ran = figure.choice == "attack" and figure.role == "recovery" and bool(figure.per_seed)
    return ran and figure.attack not in evidence.excluded and evidence.undoes(figure.attack) != "nothing"


def _without(found: Tried, reason: str) -> Tried:
    """Nothing is learnt of its theft."""
    return _with(found, status="unproven", reason=reason.rstrip("."))


def _with(found: Tried, **values: Any) -> Tried:
    return Tried(**{**vars(found), **values})


def _ignore(*_: Any) -> None:
    """Trials are reported as wholes, not step by step."""
