"""What a search found: its trials, those that no other beats in theft and cost at once, and the one to use."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field

from redteam.evaluation.statistics import Interval
from redteam.evaluation.thresholds import THRESHOLDS
from redteam.notebook import Table, fragment
from redteam.plugins.reference import parse_chain


class _Model(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class Trial(_Model):
    """A pipeline that was tried on the tuning data.

    Attributes:
        number: Its number in the study.
        pipeline: As `redteam run --attack` takes it.
        status: `"ok"`, or why it has no figures: `"skipped"` (it does not apply here), `"error"`, `"timeout"`.
        reason: The same in a sentence.
        theft: Its theft, 0 to 1.
        seconds: What it took, or less, where a longer pipeline that begins with it took less.
        labels, steps: What else it cost.
    """

    number: int
    pipeline: str
    status: Literal["ok", "skipped", "error", "timeout"]
    reason: str = ""
    theft: float | None = None
    seconds: float | None = None
    labels: int | None = None
    steps: int | None = None

    @property
    def figures(self) -> str:
        """What came of it, in words."""
        return (
            f"theft {self.theft:.2f} in {self.seconds:.2g} s"
            if self.status == "ok"
            else f"{self.status}, {self.reason}"
        )


class Scored(_Model):
    """The winner on the scoring data.

    Attributes:
        theft: With its interval; `None` if the run gave no figure.
        seconds: What it cost there.
        verdict: The defense's, in that run.
        reason: Why there is no figure.
    """

    theft: Interval | None = None
    seconds: float | None = None
    verdict: str = ""
    reason: str = ""


class SearchResults(_Model):
    """A search, as `search.json` holds it.

    Attributes:
        scenario, seed, defense, merger, threat: What was searched against.
        split: What was tuned on.
        wanted: How many trials were asked for.
        theft: The least theft that the winner should have.
        naive: Theft without any attack, on the tuning data.
        space: The attacks, with the settings that were tuned and where.
        trials: In order, each pipeline once.
        repeated: How many proposals were a pipeline that had been tried; none of them was computed.
        exhausted: Whether the search ended since nothing new was proposed any more.
        front: Numbers of the trials that none beats in theft and cost at once, the cheapest first.
        winner: Number of the one to use, `None` if no trial has figures.
        scored: The winner on the scoring data.
        repeat: The command that repeats the winner there.
        command: The command that repeats the search.
        environment: Versions.
    """

    schema_: int = Field(default=1, alias="schema")
    scenario: str
    seed: int
    defense: str
    merger: str
    threat: str
    split: str
    wanted: int
    theft: float = THRESHOLDS.priced
    naive: float
    space: dict[str, Any]
    trials: tuple[Trial, ...]
    repeated: int
    exhausted: bool
    front: tuple[int, ...]
    winner: int | None
    scored: Scored | None = None
    repeat: str = ""
    command: str = ""
    environment: dict[str, str]

    @property
    def best(self) -> Trial | None:
        """The winner."""
        return next((trial for trial in self.trials if trial.number == self.winner), None)

    @property
    def strong(self) -> bool:
        """Whether the winner steals as much as was wanted, on the tuning data."""
        return self.best is not None and (self.best.theft or 0.0) >= self.theft

    def table(self) -> Table:
        """The trials that no other beats, as texts; a star is at the winner."""
        numbers = {trial.number: trial for trial in self.trials}
        rows = [
            ("*" if number == self.winner else "", numbers[number].figures, numbers[number].pipeline)
            for number in self.front
        ]
        return Table((), rows, "No other trial beats these in theft and seconds at once, on the tuning data:")

    def _repr_html_(self) -> str:
        again = [f"Repeat the winner: {self.repeat}"] if self.repeat else []
        return fragment(self.sentences, [self.table()], again)

    @property
    def sentences(self) -> tuple[str, ...]:
        """What was found, in words, the winner first."""
        return tuple(_sentences(self))


def front(trials: Sequence[Trial]) -> tuple[Trial, ...]:
    """The trials that no other beats in theft and seconds at once, the cheapest first."""
    left: list[Trial] = []
    for trial in sorted(
        _measured(trials),
        key=lambda one: (one.seconds, -(one.theft or 0.0), len(parse_chain(one.pipeline)), one.number),
    ):
        if not left or (trial.theft or 0.0) > (left[-1].theft or 0.0):
            left.append(trial)
    return tuple(left)


def bounded(trials: Sequence[Trial]) -> tuple[Trial, ...]:
    """The trials, none of them slower than a longer one that begins with it: that one did the same and more.

    On a busy machine seconds scatter, and without this an attack would lose to itself followed by something useless.
    """
    links = {trial.number: parse_chain(trial.pipeline) for trial in trials}
    made = []
    for trial in trials:
        own = links[trial.number]
        longer = [one.seconds for one in _measured(trials) if links[one.number][: len(own)] == own and one.seconds]
        made.append(
            trial if trial.seconds is None else trial.model_copy(update={"seconds": min([trial.seconds, *longer])})
        )
    return tuple(made)


def winner(trials: Sequence[Trial], theft: float = THRESHOLDS.priced) -> Trial | None:
    """The cheapest on the front that steals so much, else the one that steals most; `None` without any figures."""
    best = front(trials)
    return next((trial for trial in best if (trial.theft or 0.0) >= theft), best[-1] if best else None)


def _measured(trials: Sequence[Trial]) -> list[Trial]:
    return [trial for trial in trials if trial.status == "ok" and trial.theft is not None]


def _sentences(found: SearchResults) -> list[str]:
    best, tried = found.best, len(found.trials)
    against = f"against {found.defense} under {found.threat}"
    if best is None:
        return [f"None of {tried} trials {against} gave a figure, so that nothing is known."]
    figures = f"theft {best.theft:.2f} in {best.seconds:.2g} s on the tuning data"
    if found.strong:
        told = [f"{best.pipeline} is the cheapest attacker of theft {found.theft} or more {against}: {figures}."]
    else:
        told = [
            f"No attacker of theft {found.theft} or more {against} was found in {tried} trials. "
            f"The strongest is {best.pipeline}: {figures}."
        ]
    if found.scored is not None and found.scored.theft is not None:
        gap = (best.theft or 0.0) - found.scored.theft.mean
        told.append(
            f"On the scoring data, which it has never seen, its theft is {found.scored.theft} in "
            f"{found.scored.seconds or 0.0:.2g} s; {gap:+.2f} is the optimism of tuning."
        )
        if found.strong and found.scored.theft.mean < found.theft:
            told.append(f"That is less than {found.theft}: what was tuned for did not carry over.")
    elif found.scored is not None:
        told.append(f"On the scoring data it has no figure ({found.scored.reason.rstrip('.')}).")
    failed = [trial for trial in found.trials if trial.status != "ok"]
    if failed:
        told.append(f"{len(failed)} of {tried} trials failed and count for nothing, neither as strong nor as weak.")
    if found.exhausted:
        told.append("The search ended early, since only pipelines that had been tried were proposed any more.")
    return told
