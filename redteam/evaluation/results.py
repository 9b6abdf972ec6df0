"""What a run found: the contract for scripts, written to `results.json`."""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from pydantic import ConfigDict, Field

from redteam.archive import RESULTS
from redteam.errors import BadInput
from redteam.evaluation.reading import require_whole, text_of
from redteam.evaluation.rows import (
    FELL_BEFORE,
    Adversary,
    Beside,
    ByMerger,
    Cell,
    Control,
    ControlKind,
    Figure,
    Ground,
    Model,
    Place,
    Placed,
    SeedFigure,
    Status,
    Subject,
    WholeMerge,
)
from redteam.evaluation.statistics import Interval
from redteam.files import write_atomically

if TYPE_CHECKING:
    import pandas as pd

__all__ = [
    "FALLEN",
    "FELL_BEFORE",
    "WITHOUT_FIGURE",
    "Adversary",
    "Beside",
    "ByMerger",
    "Cell",
    "Choice",
    "Control",
    "ControlKind",
    "Coverage",
    "Figure",
    "Flag",
    "Gate",
    "Ground",
    "OneRun",
    "OverVictims",
    "Place",
    "Price",
    "Results",
    "SeedFigure",
    "Span",
    "Status",
    "Subject",
    "Verdict",
    "WholeMerge",
]
"""Every type of value that the file holds, whichever module has it."""


FALLEN = ("BROKEN", "INEFFECTIVE")
"""Words that say of a defense that it does not protect."""
WITHOUT_FIGURE = ("UNSCORABLE", "INVALID")
"""Words that say of the figures that they cannot be trusted."""


class Span(Model):
    """A figure over seeds: its mean, the least and the most."""

    mean: float
    low: float
    high: float


class Price(Model):
    """What the cheapest attack that steals nearly everything costs, over what training such an expert anew costs.

    Attributes:
        censored: Whether no attack got that far, so that all that is known is that none of those tried is enough.
        attack, merger: The cheapest one, by CPU seconds.
        ratio: Unit (`"seconds"` of CPU time, `"labels"`, `"steps"`) → cost ÷ cost of training anew, over seeds; `None`
            where that is not known.
        paid, anew: The costs themselves, by unit.
    """

    censored: bool
    attack: str = ""
    merger: str = ""
    ratio: dict[str, Span | None] = Field(default_factory=dict)
    paid: dict[str, Span] = Field(default_factory=dict)
    anew: dict[str, Span] = Field(default_factory=dict)


class Flag(Model):
    """What a flag on a verdict says."""

    raised_if: str
    means: str
    do: str


class Coverage(Model):
    """How much of what was planned has a result; errors, timeouts and skipped cells never count as robust."""

    planned: int
    judged: int
    errors: int
    timeouts: int
    skipped: int


class Gate(Model):
    """What `--fail-on` asked for, and the answer: the exit code follows from it alone.

    Attributes:
        expression: As written, for example `"theft>=0.5"`.
        outcome: `"held"`, `"failed"`, or `"undefined"` where a figure that it asks for does not exist or cannot be
            trusted; undefined comes before failed.
        failed: Which verdicts failed it, as (scenario, defense, threat).
        undefined: For which ones it is undefined.
    """

    expression: str
    outcome: Literal["held", "failed", "undefined"]
    failed: tuple[tuple[str, str, str], ...] = ()
    undefined: tuple[tuple[str, str, str], ...] = ()


class Choice(Model):
    """An attack with a merger, and what it stole."""

    attack: str
    merger: str
    theft: Interval


class Verdict(Placed):
    """What can be said of one defense under one threat model.

    Attributes:
        verdict: The word.
        reason: The sentence that says why, without the word.
        attack, merger: Behind the worst case, on most seeds.
        theft: In the worst case over attacks, mergers and keys.
        counted: The part of it that verdicts count; see `Figure`.
        protection: 1 − theft without any attack.
        imitation: Theft by whoever only runs the model (the attack in the role `interface` that steals most): what an
            interface to the unlocked victim leaks, and any lock that keeps its answers.
        beyond: Theft less that, seed by seed: what the weights leak over what any interface does.
        by: Attack → on how many seeds it is the worst case.
        fallen: On how many seeds half or more was surely stolen.
        seen: What an attacker would choose by what they can see of it.
        broke_first: The cheapest attack, by CPU seconds, that surely steals half on some seed; empty if none.
        cost: Of the worst case, by unit, on average; seconds are CPU seconds.
        rests_on: The positions in `Results.controls` of the controls that the word rests on.
        gated: Whether a gate speaks of it; not so for a defense that protects nothing on purpose.
    """

    verdict: str
    reason: str
    flags: tuple[str, ...]
    attack: str = ""
    merger: str = ""
    theft: Interval | None = None
    counted: Interval | None = None
    advantage: Interval | None = None
    protection: Interval | None = None
    imitation: Interval | None = None
    beyond: Interval | None = None
    fidelity: dict[str, Interval] = Field(default_factory=dict)
    by: dict[str, int] = Field(default_factory=dict)
    fallen: int = 0
    seen: Choice | None = None
    broke_first: str = ""
    cost: dict[str, float | None] = Field(default_factory=dict)
    price: Price | None = None
    keys: int = 1
    rests_on: tuple[int, ...] = ()
    gated: bool = True


class OverVictims(Placed):
    """What can be said of one defense under one threat model where several tasks are the victim in turn.

    Attributes:
        scenario: What it was asked for as; each victim has a scenario, and a verdict, of its own.
        verdict: BROKEN (or INEFFECTIVE) where it is so of one victim or more, HOLDS-SO-FAR only where it is of all.
        reason: Which word on which victims.
        victims: Victim → its scenario.
        fallen: The victims that it does not protect.
        left_out: The victims that add too little to the merge for anything to be told.
        theft, counted: In the worst case over attacks, mergers, keys and victims, seed by seed.
        attack, merger: Behind the worst case, on most seeds.
        by: Victim → on how many seeds it is the worst case.
        protection: 1 − theft without any attack, in the worst case over victims.
        fidelity: Dtype → that of the victim where it is lowest.
        gated: As of a verdict.
    """

    verdict: str
    reason: str
    victims: dict[str, str]
    fallen: tuple[str, ...] = ()
    left_out: tuple[str, ...] = ()
    theft: Interval | None = None
    counted: Interval | None = None
    attack: str = ""
    merger: str = ""
    by: dict[str, int] = Field(default_factory=dict)
    protection: Interval | None = None
    fidelity: dict[str, Interval] = Field(default_factory=dict)
    gated: bool = True

    @property
    def judged(self) -> tuple[str, ...]:
        """The victims of which something can be told."""
        return tuple(victim for victim in self.victims if victim not in self.left_out)

    @property
    def standing(self) -> str:
        """The word, and on how many of the victims it falls: `BROKEN 3/4`."""
        return f"{self.verdict} {len(self.fallen)}/{len(self.judged)}" if self.fallen else self.verdict


class OneRun(Model):
    """One of several runs that results were put together from.

    Attributes:
        plan: What its plan is called.
        scenarios: Those of its verdicts.
        command, environment: As in `Results`.
    """

    plan: str
    scenarios: tuple[str, ...]
    command: str
    environment: dict[str, Any]


class Results(Model):
    """Everything that the last plan found, and nothing else.

    Attributes:
        subjects: One row for each verdict: what it rests on beside figures and controls.
        over_victims: One row for each defense and threat model where several tasks are the victim in turn.
        whole: One row for each defense, threat model and merger that keeps every expert whole, beside the verdicts.
        beside: What the victim's task counts beside its score; none where it counts no more.
        computed: Kind of step → how many were computed or found cached.
        flags: Name → what it says, for every flag that a verdict carries.
        threats: Name → the threat model in words, for those of the plan.
        about: `"defense"`, `"attack"`, `"merger"`, `"scenario"` → text as in cells → one line about it.
        settings: Kinds as in `about` → text as in cells → per link of the chain its settings, those left out included.
        by_merger: One row for each verdict and merger of the plan, where it has several.
        gauntlets, merger_gauntlets: Name → its members, in the order in which they run, for those of the plan.
        claims: Defense → what its source reports of it, which is not what was found here.
        untested: Sentences on what was not tested.
        gate: `None` where nothing was asked.
        runs: Where several runs were put beside each other, each of them; empty for results of one.
    """

    schema_: Literal[2] = Field(default=2, alias="schema")
    plan: dict[str, Any]
    command: str
    environment: dict[str, Any]
    thresholds: dict[str, Any]
    grounds: tuple[Ground, ...]
    cells: tuple[Cell, ...]
    subjects: tuple[Subject, ...] = ()
    figures: tuple[Figure, ...] = ()
    controls: tuple[Control, ...]
    verdicts: tuple[Verdict, ...]
    over_victims: tuple[OverVictims, ...] = ()
    whole: tuple[WholeMerge, ...] = ()
    beside: tuple[Beside, ...] = ()
    flags: dict[str, Flag] = Field(default_factory=dict)
    threats: dict[str, str] = Field(default_factory=dict)
    about: dict[str, dict[str, str]] = Field(default_factory=dict)
    settings: dict[str, dict[str, list[dict[str, Any]]]] = Field(default_factory=dict)
    by_merger: tuple[ByMerger, ...] = ()
    gauntlets: dict[str, tuple[str, ...]] = Field(default_factory=dict)
    merger_gauntlets: dict[str, tuple[str, ...]] = Field(default_factory=dict)
    claims: dict[str, str] = Field(default_factory=dict)
    untested: tuple[str, ...] = ()
    coverage: Coverage | None = None
    computed: dict[str, int] = Field(default_factory=dict)
    gate: Gate | None = None
    runs: tuple[OneRun, ...] = ()

    model_config = ConfigDict(populate_by_name=True)

    def __repr__(self) -> str:
        """A line on the run and one for each verdict, as notebooks and shells show it."""
        failed = sum(not control.passed for control in self.controls)
        lines = [f"Results of {self.plan.get('name', '')!r}: {len(self.cells)} cells, {failed} controls failed"]
        rows: list[OverVictims | Verdict] = [*self.over_victims, *self.verdicts]
        return "\n  ".join([*lines, *(f"{v.verdict} {v.defense} under {v.threat}: {v.reason}" for v in rows)])

    __str__ = __repr__

    def _repr_html_(self) -> str:
        from redteam.overview import html

        return html(self)

    def to_frame(self, table: str = "cells") -> pd.DataFrame:
        """One row per cell, or of another table, with the same columns and dtypes whatever was found.

        Args:
            table: `"cells"`, `"controls"`, `"verdicts"`, `"over_victims"`, `"beside"`, `"figures"`, `"subjects"`,
                `"whole"` or `"by_merger"`.

        Returns:
            Columns as the fields of `Cell`, `Control`, `Verdict` and so on. Of an interval
            `theft`: `theft` (its mean), `theft.low`, `theft.high`; of a mapping: `fidelity.float32`, `tasks.NAME`.
            Scores and costs are columns of their own: `theft`, `residual`, `seconds`, `labels`. A figure that does not
            exist is NaN.

        Raises:
            UnknownName: If there is no such table.
        """
        from redteam.evaluation.frames import frame

        return frame(self, table)

    @classmethod
    def read(cls, path: Path) -> Results:
        """Reads the results of a finished run.

        Args:
            path: The run's folder, a file that was written by `write`, compressed (.json.gz) or not, or an archive of
                `redteam submit`.

        Raises:
            BadInput: If there is none, or it was written by a version that we cannot read.
        """
        named = path.is_file() or (path.suffix in (".json", ".gz") and not path.is_dir())
        file = path if named else path / RESULTS
        try:
            found = cls.model_validate_json(text_of(file))
            require_whole(found)
            return found
        except OSError as error:
            raise BadInput(f"{file} cannot be read ({error.strerror}); name the folder of a finished run.") from None
        except ValueError:
            raise BadInput(f"{file} holds no results that this version reads; run the plan again.") from None

    @classmethod
    def published_schema(cls) -> dict[str, Any]:
        """The JSON Schema of what `write` writes."""
        made = cls.model_json_schema(mode="serialization", by_alias=True)
        return {"$schema": "https://json-schema.org/draft/2020-12/schema", **made}

    def write(self, path: Path) -> None:
        """Writes the file that `read` reads, whole or not at all.

        Raises:
            UnwritableOutput: If it cannot be written.
        """
        write_atomically(path, self.as_json() + "\n")

    def as_json(self) -> str:
        """What that file holds."""
        return self.model_dump_json(indent=1, by_alias=True)

    @property
    def told(self) -> tuple[Verdict, ...]:
        """The verdicts without those on victims that were left out, since they add too little to a merge of theirs."""
        gone = {
            Place(over.victims[victim], over.defense, over.threat)
            for over in self.over_victims
            if over.judged
            for victim in over.left_out
        }
        return tuple(verdict for verdict in self.verdicts if verdict.place not in gone)

    @property
    def unevaluated(self) -> tuple[str, ...]:
        """Sentences on what could not be evaluated; empty if nothing. Skipped pairings are not among it."""
        told = [
            f"{v.verdict}: {v.defense} on {v.scenario} under {v.threat}: {v.reason}"
            for v in self.told
            if v.verdict in WITHOUT_FIGURE
        ]
        if not self.verdicts:
            told.append("there is no verdict")
        lost = Counter(
            f"{c.status}: {c.attack} on {c.defense}, {c.scenario} under {c.threat}: {c.reason}"
            for c in self.cells
            if c.status in ("error", "timeout")
        )
        told += [f"{text} ({count} {'cells' if count > 1 else 'cell'})" for text, count in lost.items()]
        told += [
            f"{c.status}: control {c.control}{f' of {c.attack}' if c.attack else ''} on {c.scenario}: {c.explanation}"
            for c in self.controls
            if c.status in ("error", "timeout")
        ]
        if self.gate is not None and self.gate.outcome == "undefined":
            told.append(f"the gate {self.gate.expression} is undefined")
        return tuple(told)

    @property
    def exit_code(self) -> int:
        """2 if something could not be evaluated, else 1 if the gate failed, else 0."""
        if self.unevaluated:
            return 2
        return 1 if self.gate is not None and self.gate.outcome == "failed" else 0
