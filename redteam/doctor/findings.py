"""What the doctor found: the contract for scripts, written as JSON."""

from __future__ import annotations

from typing import Literal, get_args

from pydantic import BaseModel, ConfigDict, Field

Severity = Literal["stops", "damages", "note"]
Kind = Literal[
    "unreadable",
    "quantised",
    "unrelated",
    "config",
    "vocabulary",
    "head",
    "own",
    "missing",
    "dtype",
    "not-finite",
    "is-base",
    "copy",
    "other-base",
    "gauge",
    "far",
    "anatomy",
    "length",
    "layer",
    "merger",
]
SEVERITIES: tuple[Severity, ...] = get_args(Severity)
"""The worst first."""


class _Model(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class Finding(_Model):
    """One reason.

    Attributes:
        severity: `"stops"`: `redteam merge` refuses; `"damages"`: it merges, and the result is not what was hoped for;
            `"note"`: worth knowing.
        kind: What was looked at; the table in `docs/doctor.md` has all.
        models: Names of the models that it is about, that of the base where it is the base.
        where: Tensors, layers, sites or settings, as far as it has a place.
        told: What was found, a sentence. Where `redteam merge` refuses it, the sentence is the same.
        remedy: What to do, a sentence.
    """

    severity: Severity
    kind: Kind
    models: tuple[str, ...]
    where: tuple[str, ...] = ()
    told: str
    remedy: str


class Examined(_Model):
    """One model that was looked at.

    Attributes:
        name: What it is called.
        path: Where it lies.
        shared: Tensors that it has in common with the base, name and shape; None where they could not be compared.
        changed: How many of them differ from the base's.
        length: ‖τ‖ / ‖base‖ over the floating ones, τ what was added to the base; None where that is no number.
    """

    name: str
    path: str
    shared: int | None = None
    changed: int | None = None
    length: float | None = None


class Diagnosis(_Model):
    """All that was found.

    Attributes:
        schema_: Raised when a field changes its meaning; `"schema"` in JSON.
        base: Where the public base lies.
        merger: The merger that was asked for; None where none was.
        models: What was looked at.
        findings: The reasons, the worst first.
    """

    schema_: Literal[1] = Field(default=1, alias="schema")
    base: str
    merger: str | None = None
    models: tuple[Examined, ...]
    findings: tuple[Finding, ...]

    @property
    def fails(self) -> bool:
        """Whether anything stops or damages the merge."""
        return any(finding.severity != "note" for finding in self.findings)

    def with_finding(self, finding: Finding) -> Diagnosis:
        """The same with one more, in its place."""
        return self.model_copy(update={"findings": ordered((*self.findings, finding))})


def ordered(findings: tuple[Finding, ...]) -> tuple[Finding, ...]:
    """The worst first, otherwise as they were found."""
    return tuple(sorted(findings, key=lambda finding: SEVERITIES.index(finding.severity)))
