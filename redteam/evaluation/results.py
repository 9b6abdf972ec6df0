"""What a run found: the contract for scripts, written to `results.json`."""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from pydantic import BaseModel, ConfigDict, Field

from redteam.errors import BadInput
from redteam.evaluation.statistics import Interval
from redteam.evaluation.store import write_atomically

if TYPE_CHECKING:
    import pandas as pd

Status = Literal["ok", "error", "timeout", "skipped"]


class Model(BaseModel):
    """Values that do not change."""

    model_config = ConfigDict(frozen=True, extra="forbid", json_schema_serialization_defaults_required=True)


class Cell(Model):
    """One pairing under one seed and key."""

    scenario: str
    seed: int
    victim: str
    defense: str
    key: int
    threat: str
    attack: str
    role: str
    merger: str
    status: Status
    reason: str = ""
    scores: dict[str, Any] = Field(default_factory=dict)
    tasks: dict[str, float] = Field(default_factory=dict)
    cost: dict[str, float | None] = Field(default_factory=dict)


class Control(Model):
    """One check that the evaluation itself can be trusted.

    Attributes:
        warning: Whether it only warns: no verdict depends on it.
    """

    control: Literal["gain", "trivial", "planted", "harmless", "floor", "ceiling", "weakened", "monotone"]
    scenario: str
    defense: str = ""
    threat: str = ""
    attack: str = ""
    site: str = ""
    group: str = ""
    passed: bool
    status: Status = "ok"
    value: float | None = None
    limit: float
    explanation: str
    warning: bool = False


class Oracle(Model):
    """The best attack on the scoring data, which no attacker can know: what HOLDS-SO-FAR must survive."""

    attack: str
    merger: str
    theft: Interval


class Price(Model):
    """What the cheapest attack that steals nearly everything costs, over what training such an expert anew costs.

    Attributes:
        censored: Whether no attack got that far, so that all that is known is that none of those tried is enough.
        attack, merger: The cheapest one, by seconds.
        ratio: Unit (`"seconds"`, `"labels"`, `"steps"`, `"megabytes"`) → cost ÷ cost of training anew; `None` where
            that is not known.
        paid, anew: The costs themselves, by unit.
    """

    censored: bool
    attack: str = ""
    merger: str = ""
    ratio: dict[str, float | None] = Field(default_factory=dict)
    paid: dict[str, float | None] = Field(default_factory=dict)
    anew: dict[str, float | None] = Field(default_factory=dict)


class Figure(Model):
    """One attack with one merger against one defense, over all seeds and keys: a square of the heat map.

    Attributes:
        counted: What verdicts count: theft, or for attacks with the victim's data the part of it that the victim was of
            use for (`advantage`).
        advantage: Theft minus that of the same attack with the same budget started from the base; `None` for attacks
            without data.
        labels: Labelled samples of the victim's task that were used.
        key_spread: The largest difference of the residual between two keys of one seed; an exact fit has none.
        cells: How many (seed, key) pairs are behind it.
        spared: On how many more of them it would have run, had an earlier member of its gauntlet not been enough.
        by: For a gauntlet: member → on how many (seed, key) pairs it is the one that was chosen; costs are those of all
            members that ran.
        status: `"ok"`, or what happened to the first cell that has no result; then there is no theft.
    """

    scenario: str
    defense: str
    threat: str
    attack: str
    role: str
    merger: str
    status: Status
    reason: str = ""
    theft: Interval | None = None
    counted: Interval | None = None
    advantage: Interval | None = None
    residual: float | None = None
    key_spread: float | None = None
    seen: float | None = None
    labels: float | None = None
    steps: float | None = None
    seconds: float | None = None
    megabytes: float | None = None
    cells: int = 0
    spared: int = 0
    by: dict[str, int] = Field(default_factory=dict)


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
        undefined: For which it could not be decided.
    """

    expression: str
    outcome: Literal["held", "failed", "undefined"]
    failed: tuple[tuple[str, str, str], ...] = ()
    undefined: tuple[tuple[str, str, str], ...] = ()


class Verdict(Model):
    """What can be said of one defense under one threat model.

    Attributes:
        theft: Of the attack chosen by what the attacker sees.
        counted: The part of it that verdicts count; see `Figure`.
        by: Where a gauntlet is meant: member → on how many (seed, key) pairs it is the one that was chosen.
        broke_first: The cheapest attack, by seconds, whose lower bound reaches half; empty if none.
        gated: Whether a gate speaks of it; not so for a defense that protects nothing on purpose.
    """

    scenario: str
    defense: str
    threat: str
    verdict: str
    reason: str
    flags: tuple[str, ...]
    attack: str = ""
    merger: str = ""
    theft: Interval | None = None
    counted: Interval | None = None
    advantage: Interval | None = None
    protection: Interval | None = None
    fidelity: dict[str, Interval] = Field(default_factory=dict)
    by: dict[str, int] = Field(default_factory=dict)
    oracle: Oracle | None = None
    broke_first: str = ""
    cost: dict[str, float | None] = Field(default_factory=dict)
    price: Price | None = None
    keys: int = 1
    gated: bool = True


class Ground(Model):
    """How the scenario behaves before any defense: what every score is measured against."""

    scenario: str
    seed: int
    merger: str
    digest: str
    settings: dict[str, Any]
    experts: dict[str, float]
    base: dict[str, float]
    without: dict[str, float]
    reference: dict[str, float]
    gain: float


class Results(Model):
    """Everything that the last plan found, and nothing else.

    Attributes:
        flags: Name → what it says, for every flag that a verdict carries.
        threats: Name → the threat model in words, for those of the plan.
        about: `"defense"`, `"attack"`, `"merger"`, `"scenario"` → text as in cells → one line about it.
        settings: Kinds as in `about` → text as in cells → per link of the chain its settings, those left out included.
        gauntlets: Name → its members, in the order in which they run, for those of the plan.
        claims: Defense → what its source reports of it, which is not what was found here.
        untested: Sentences on what was not tested.
        gate: `None` where nothing was asked.
    """

    schema_: Literal[1] = Field(default=1, alias="schema")
    plan: dict[str, Any]
    command: str
    environment: dict[str, Any]
    thresholds: dict[str, Any]
    grounds: tuple[Ground, ...]
    cells: tuple[Cell, ...]
    figures: tuple[Figure, ...] = ()
    controls: tuple[Control, ...]
    verdicts: tuple[Verdict, ...]
    flags: dict[str, Flag] = Field(default_factory=dict)
    threats: dict[str, str] = Field(default_factory=dict)
    about: dict[str, dict[str, str]] = Field(default_factory=dict)
    settings: dict[str, dict[str, list[dict[str, Any]]]] = Field(default_factory=dict)
    gauntlets: dict[str, tuple[str, ...]] = Field(default_factory=dict)
    claims: dict[str, str] = Field(default_factory=dict)
    untested: tuple[str, ...] = ()
    coverage: Coverage | None = None
    gate: Gate | None = None

    model_config = ConfigDict(populate_by_name=True)

    def __repr__(self) -> str:
        """A line on the run and one for each verdict, as notebooks and shells show it."""
        failed = sum(not control.passed for control in self.controls)
        lines = [f"Results of {self.plan.get('name', '')!r}: {len(self.cells)} cells, {failed} controls failed"]
        return "\n  ".join([*lines, *(f"{v.verdict} {v.defense} under {v.threat}: {v.reason}" for v in self.verdicts)])

    __str__ = __repr__

    def to_frame(self, table: str = "cells") -> pd.DataFrame:
        """One row per cell, or of another table, with the same columns and dtypes whatever was found.

        Args:
            table: `"cells"`, `"controls"`, `"verdicts"` or `"figures"`.

        Returns:
            Columns as the fields of `Cell`, `Control`, `Verdict` or `Figure`. Of an interval `theft`: `theft` (its
            mean), `theft.low`, `theft.high`; of a mapping: `fidelity.float32`, `tasks.NAME`. Scores and costs are
            columns of their own: `theft`, `residual`, `seconds`, `labels`. A figure that does not exist is NaN.

        Raises:
            UnknownName: If there is no such table.
        """
        from redteam.evaluation.frames import frame

        return frame(self, table)

    @classmethod
    def read(cls, folder: Path) -> Results:
        """Reads `results.json` of a finished run.

        Raises:
            BadInput: If there is none, or it was written by a version that we cannot read.
        """
        path = folder / "results.json"
        try:
            return cls.model_validate_json(path.read_text(encoding="utf-8"))
        except OSError as error:
            raise BadInput(f"{path} cannot be read ({error.strerror}); name the folder of a finished run.") from None
        except ValueError:
            raise BadInput(f"{path} holds no results that this version reads; run the plan again.") from None

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
        write_atomically(path, self.model_dump_json(indent=1, by_alias=True) + "\n")

    @property
    def unevaluated(self) -> tuple[str, ...]:
        """Sentences on what could not be evaluated; empty if nothing. Skipped pairings are not among it."""
        told = [
            f"{v.verdict}: {v.defense} on {v.scenario} under {v.threat}: {v.reason}"
            for v in self.verdicts
            if v.verdict in ("UNSCORABLE", "INVALID")
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
