"""Controls: what has to be true of an evaluation before its figures mean anything."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

from redteam.evaluation.monotone import monotone
from redteam.evaluation.results import Control
from redteam.evaluation.statistics import Interval, Vector, combine
from redteam.evaluation.thresholds import THRESHOLDS

if TYPE_CHECKING:
    from redteam.evaluation.graph import Cell
    from redteam.evaluation.judge import Judge
    from redteam.evaluation.scores import Yardstick

_SCORING = ("floor", "trivial")
"""Controls that speak of the score itself; the others speak of one attack or one lock."""

_OF_ROLE = {"trivial": "trivial", "ceiling": "ceiling", "anew": "ceiling"}

Finding = tuple[bool, float | None, float, str]
"""Whether it passed, what was found, the limit, and the sentence."""


class ControlSheet:
    """All controls of a run."""

    def __init__(self, judge: Judge) -> None:
        self.judge = judge
        groups: dict[tuple[str, ...], list[Cell]] = {}
        for cell in judge.graph.cells:
            group = _OF_ROLE.get(cell.role, "") if cell.group == "cell" else cell.group
            if group and not self._nowhere(cell):
                where = (group, cell.scenario, cell.defense, cell.threat, cell.attack, cell.site, cell.group_name)
                groups.setdefault(where, []).append(cell)
        self.controls: tuple[Control, ...] = (
            *(self._gain(scenario) for scenario in dict.fromkeys(g.scenario for g in judge.graph.grounds)),
            *(self._control(where, cells) for where, cells in groups.items()),
            *monotone(judge),
        )

    def _nowhere(self, cell: Cell) -> bool:
        """Whether there is nothing to control: no such site in this architecture, or no such attack on this lock."""
        lock = self.judge.result(cell.lock)
        empty = lock is not None and not lock["changed"]
        if cell.group == "planted" and (empty or self.judge.outcomes[cell.lock].get("inapplicable")):
            return True
        return cell.group in ("cell", "floor", "weakened") and self.judge.inapplicable(cell)

    def gain(self, scenario: str, cells: Sequence[Cell] = ()) -> Interval | None:
        """What the unlocked victim adds to the merge, with the merger for which that is least, failed ones left out.

        Args:
            scenario: Whose victim.
            cells: Of these alone; they may be measured against a victim that was prepared for its lock.
        """
        mergers: dict[str, list[Yardstick | None]] = {}
        places = {(cell.seed, cell.merger): self.judge.yardstick(cell) for cell in cells}
        if not cells:
            places = {(seed, m): y for (name, seed, m), y in self.judge.yardsticks.items() if name == scenario}
        for (_, merger), yardstick in places.items():
            mergers.setdefault(merger, []).append(yardstick)
        gains = [
            [y.gain for y in yardsticks if y is not None] for yardsticks in mergers.values() if None not in yardsticks
        ]
        return min((combine(vectors) for vectors in gains), key=lambda interval: interval.low, default=None)

    def doubts(self, scenario: str, defense: str, threat: str) -> list[str]:
        """Sentences on failed controls that make the score itself doubtful for a defense."""
        return [
            f"{c.control} control failed: {c.explanation}"
            for c in self.controls
            if not c.passed
            and c.status == "ok"
            and c.control in _SCORING
            and (c.scenario, c.defense, c.threat) == (scenario, defense, threat)
        ]

    def unfinished(self, scenario: str, defense: str, threat: str) -> list[str]:
        """Sentences on controls of a defense that could not be carried out."""
        mine = [c for c in self.controls if (c.scenario, c.defense, c.threat) == (scenario, defense, threat)]
        return [f"{c.control} control of {c.attack}: {c.explanation}" for c in mine if c.status != "ok"]

    def reliable(self, scenario: str, threat: str, attacks: set[str]) -> frozenset[str]:
        """Attacks that undo every lock they claim to undo, and harm no unlocked model.

        One that claims no kind of lock proves itself on the weakened variant of a defense that it was made for.
        """
        found = set()
        for attack in attacks:
            own = [c for c in self.controls if (c.scenario, c.threat, c.attack) == (scenario, threat, attack)]
            passed = {
                kind: [c.passed for c in own if c.control == kind] for kind in ("planted", "weakened", "harmless")
            }
            proven = all(passed["planted"]) if passed["planted"] else any(passed["weakened"])
            if proven and all(passed["harmless"]):
                found.add(attack)
        return frozenset(found)

    def unproven(self, scenario: str, threat: str) -> frozenset[str]:
        """Attacks that failed a control of their own."""
        return frozenset(
            c.attack
            for c in self.controls
            if (c.scenario, c.threat) == (scenario, threat) and c.control in ("planted", "harmless") and not c.passed
        )

    def ceiling(self, scenario: str, defense: str, threat: str) -> bool | None:
        """Whether somebody who has everything reached the ceiling, so that it can be; `None` where nobody was tried."""
        mine = self._of("ceiling", scenario, defense, threat)
        return any(c.passed for c in mine) if mine else None

    def targeted(self, scenario: str, defense: str, threat: str) -> frozenset[str]:
        """Reliable attacks that name this defense and broke its weakened variant."""
        broke = {c.attack for c in self._of("weakened", scenario, defense, threat) if c.passed}
        return self.reliable(scenario, threat, broke)

    def _of(self, control: str, scenario: str, defense: str, threat: str) -> list[Control]:
        return [
            c
            for c in self.controls
            if (c.control, c.scenario, c.defense, c.threat) == (control, scenario, defense, threat)
        ]

    def _gain(self, scenario: str) -> Control:
        gain, limit = self.gain(scenario), THRESHOLDS.gain
        if gain is None:
            return Control(
                control="gain",
                scenario=scenario,
                passed=False,
                status="error",
                limit=limit,
                explanation="the merges that everything is measured against could not be computed",
            )
        return Control(
            control="gain",
            scenario=scenario,
            passed=gain.low >= limit,
            value=gain.low,
            limit=limit,
            explanation=f"the unlocked victim adds {gain} to the merge on its own task; lower bound at least {limit}",
        )

    def _control(self, where: tuple[str, ...], cells: Sequence[Cell]) -> Control:
        kind, scenario, defense, threat, attack, site, group = where
        checks: dict[str, Callable[[Sequence[Cell]], Finding]] = {
            "trivial": self._trivial,
            "floor": self._floor,
            "ceiling": self._ceiling,
            "weakened": self._weakened,
            "harmless": self._harmless,
            "planted": self._planted,
        }
        failed = [found for cell in cells if (found := self.judge.status(cell))[0] != "ok"]
        if not failed and any(self.judge.yardstick(cell) is None for cell in cells):
            failed = [("skipped", "the merges it is measured against could not be computed")]
        status, reason = failed[0] if failed else ("ok", "")
        passed, value, limit, explanation = (False, None, 0.0, reason) if failed else checks[kind](cells)
        return Control(
            control=kind,  # type: ignore[arg-type]
            scenario=scenario,
            defense=defense,
            threat=threat,
            attack=attack,
            site=site,
            group=group,
            passed=passed,
            status=status,
            value=value,
            limit=limit,
            explanation=explanation,
        )

    def _theft(self, cells: Sequence[Cell]) -> Interval:
        return self.judge.interval(cells, self.judge.theft)

    def _naive(self, cells: Sequence[Cell]) -> Interval:
        """Theft from the same locks without any attack."""
        return self.judge.interval(cells, lambda cell: self.judge.theft(cell, cell.naive))

    def _trivial(self, cells: Sequence[Cell]) -> Finding:
        """Whoever guesses a key still holds the victim, and may steal what is stolen without any attack."""
        theft, limit = self._theft(cells), THRESHOLDS.trivial
        if all(cell.code for cell in cells):
            limit = max(limit, self._naive(cells).high)
        return theft.mean <= limit, theft.mean, limit, f"{cells[0].attack} steals {theft}; at most {limit:.2g}"

    def _floor(self, cells: Sequence[Cell]) -> Finding:
        theft, limit = self._theft(cells), THRESHOLDS.floor
        told = f"from a fresh victim {cells[0].attack} steals {theft}; upper bound under {limit}"
        return theft.high < limit, theft.high, limit, told

    def _ceiling(self, cells: Sequence[Cell]) -> Finding:
        who, limit = "the key's holder gets {} back", THRESHOLDS.ceiling
        if cells[0].role == "anew":
            who, limit = "an expert trained anew is worth {} in its place", THRESHOLDS.anew
        theft = self.judge.interval(cells, self.judge.theft, worst=min)
        return theft.mean >= limit, theft.mean, limit, f"{who.format(theft)}; at least {limit}"

    def _weakened(self, cells: Sequence[Cell]) -> Finding:
        """A variant that stops no merge is not there to be broken."""
        theft, limit = self._theft(cells), THRESHOLDS.stolen
        naive = self._naive(cells)
        told = (
            f"{cells[0].attack} steals {theft} from the weakened variant, no attack {naive.mean:.2f}; "
            f"lower bound at least {limit}, without attack less"
        )
        return theft.low >= limit > naive.mean, theft.low, limit, told

    def _harmless(self, cells: Sequence[Cell]) -> Finding:
        def harm(cell: Cell) -> Vector | None:
            yardstick, scores = self.judge.yardstick(cell), self.judge.scores(cell.merge)
            return None if yardstick is None or scores is None else yardstick.harm(scores)

        change, limit = combine(self.judge.over_seeds(cells, harm, worst=min)), THRESHOLDS.harmless
        told = f"on an unlocked victim {cells[0].attack} changes the merge by {change}; lower bound above {limit}"
        return change.low > limit, change.low, limit, told

    def _planted(self, cells: Sequence[Cell]) -> Finding:
        """The worst seed decides.

        The weights are as close to the base as they come without the lock (tied cost), and where the function is not
        kept it changes as on the unlocked victim, and the skill is back (theft). Theft alone would not see a forgotten
        bias, and closeness alone not that the victim was thrown away; attacks with data are held to theft.
        """
        return min((self._plant(cell) for cell in cells), key=lambda found: found[0])

    def _plant(self, cell: Cell) -> Finding:
        lock, attacked, twin = (self.judge.result(name) for name in (cell.lock, cell.recovered, cell.twin))
        if lock is None or attacked is None or twin is None:
            return False, 0.0, THRESHOLDS.planted_cost, "the same attack on the unlocked victim could not be computed"
        cost, target, start = (record["tied_cost"].get(cell.site, 0.0) for record in (attacked, twin, lock))
        if target > 0 and start >= THRESHOLDS.planted_strength * target:
            closeness = cost / target
            told = (
                f"{cell.attack} leaves {closeness:.4g} times the tied cost at {cell.site} that it leaves on the "
                f"unlocked victim (the lock: {start / target:.3g}); at most {THRESHOLDS.planted_cost}"
            )
            finding = (closeness <= THRESHOLDS.planted_cost, closeness, THRESHOLDS.planted_cost, told)
            if self._kept(cell) or (not finding[0] and not cell.unused):
                return finding
        changes = [record["change"] for record in (attacked, twin)]
        if not cell.unused and (None in changes or abs(changes[0] - changes[1]) > THRESHOLDS.function):
            shown = " and ".join("beyond measure" if change is None else f"by {change:.2g}" for change in changes)
            told = (
                f"{cell.attack} changes the function {shown}, with the planted lock and without; the same is expected"
            )
            return False, None, THRESHOLDS.function, told
        naive, stolen = self.judge.theft(cell, cell.naive), self.judge.theft(cell)
        assert naive is not None
        assert stolen is not None
        protection, theft = 1.0 - float(naive[0]), float(stolen[0])
        if protection < THRESHOLDS.planted_protection:
            told = f"the planted lock is too weak to prove anything: its protection is {protection:.2f}"
            return False, protection, THRESHOLDS.planted_protection, told
        told = f"{cell.attack} steals {theft:.2f} from the planted lock; at least {THRESHOLDS.planted_theft}"
        return theft >= THRESHOLDS.planted_theft, theft, THRESHOLDS.planted_theft, told

    def _kept(self, cell: Cell) -> bool:
        """Whether what the attack returned still computes what the protected model does."""
        record = self.judge.result(cell.recovered)
        return record is not None and record["change"] is not None and record["change"] <= THRESHOLDS.function
