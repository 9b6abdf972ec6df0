"""Steps: what is computed, each under the hash of everything that its result depends on, and the six kinds of record.

The computations themselves are in `redteam.evaluation.computations`; this module knows no tensor, so that the main
process can lay out and read a run without any.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import lru_cache
from typing import Any, Literal

from pydantic import TypeAdapter

from redteam.evaluation.digest import engine_digest, versions
from redteam.evaluation.packing import Packed

Kind = Literal["alone", "try", "tune", "lock", "attack", "merge"]


@dataclass(frozen=True)
class Step:
    """One computation.

    Attributes:
        kind: Which.
        label: What progress lines call it.
        settings: What it depends on beside its inputs, as plain values.
        inputs: Role → name of the step that it takes.
        how: What a worker needs to find plugins (references and their digests); names nothing new.
        makes: Whether it makes a checkpoint that other steps read.
        name: The hash.
    """

    kind: Kind
    label: str
    settings: Mapping[str, Any]
    inputs: Mapping[str, str] = field(default_factory=dict)
    how: Mapping[str, Any] = field(default_factory=dict)
    makes: bool = False
    name: str = ""

    @classmethod
    def of(cls, kind: Kind, label: str, *, settings: Mapping[str, Any], **rest: Any) -> Step:
        """A step under its name."""
        name = content_name(kind, {"settings": settings, "inputs": rest.get("inputs", {})})
        return cls(kind, label, settings, name=name, **rest)


def content_name(kind: str, depends: Mapping[str, Any]) -> str:
    """The hash of what a computation depends on; engine and versions of libraries are added here."""
    content = {"kind": kind, **depends, "engine": engine_digest(), "versions": versions()}
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()[:32]


@dataclass(frozen=True)
class Cost:
    """What a step has used up.

    Attributes:
        seconds: CPU seconds of its process.
        megabytes: Peak resident memory over what was resident before, where the system can tell.
        labels: Labelled samples of the victim's task.
        steps: Optimizer steps.
    """

    seconds: float
    megabytes: float | None = None
    labels: int = 0
    steps: int = 0


@dataclass(frozen=True)
class Scored:
    """Base and experts alone.

    Attributes:
        victim: The victim's task.
        chance: Task → score of guessing.
        experts: Task → one result per test item of what its expert has; see `Task.held`.
        base: Task → one result per test item.
        validation: Own task → score of its expert on the attacker's validation data.
        watched: The same on the half of it that no attack is given.
        stored: Dtype → one result per test item of the victim, rounded to that dtype.
        length: The companions' mean ‖τ‖ over the tensors that are shared with the base.
        beside: Names, each with one result per test item, of what the victim shows, where its task counts more than
            its score, which comes first.
        copied: Own task → the results of the victim's model under its head, nothing merged.
        seconds: CPU seconds that it took.
        stored_seconds: Of these, what rounding the victim and scoring it so took.
    """

    victim: str
    chance: dict[str, float]
    experts: dict[str, Packed]
    base: dict[str, Packed]
    validation: dict[str, float]
    watched: dict[str, float]
    stored: dict[str, Packed]
    length: float
    beside: list[tuple[str, Packed]] = field(default_factory=list)
    copied: dict[str, Packed] = field(default_factory=dict)
    seconds: float = 0.0
    stored_seconds: float = 0.0


@dataclass(frozen=True)
class Tried:
    """One setting of a merger on the companions-only merge.

    Attributes:
        settings: The setting.
        score: The companions' mean n on the attacker's validation data.
    """

    settings: dict[str, Any]
    score: float


@dataclass(frozen=True)
class Tuned:
    """The setting of a merger that is best on the companions-only merge.

    Attributes:
        settings: The chosen one.
        table: Every setting that was tried, with its score.
    """

    settings: dict[str, Any]
    table: list[tuple[dict[str, Any], float]]


@dataclass(frozen=True)
class Locked:
    """A victim under a lock, which may be a planted one, or none.

    Attributes:
        digest: SHA-256 of its weights.
        changed: Names of the victim's tensors that it no longer has as they were, and of those that were added.
        shapes: Name → shape of each tensor that was added or has another shape than the victim's.
        planted: Kinds of sites at which a lock was planted.
        uncovered: Of a plant of another lock's extent, the tensors which that one changed and no planted site holds.
        sibling: The companion's task, where it is one of the attacker's own experts that was locked.
        tied_cost: Kind of site → tied cost to the base.
        change: max |Δ logits| ÷ max |logits| against the unlocked victim, in float64.
        answers: Its answers on the attacker's own inputs.
        stored: Dtype → one result per test item, rounded to that dtype.
        dtype: In which the weights are released.
        cost: Of putting it on, the optimizer steps that its training took among it.
        weights: How many there are, over the victim's.
        inference: The CPU time of a forward pass over the victim's; exactly 1 where no shape differs.
    """

    digest: str
    changed: list[str] = field(default_factory=list)
    shapes: dict[str, list[int]] = field(default_factory=dict)
    planted: list[str] = field(default_factory=list)
    uncovered: list[str] = field(default_factory=list)
    sibling: str = ""
    tied_cost: dict[str, float] = field(default_factory=dict)
    change: float | None = None
    answers: list[int] = field(default_factory=list)
    stored: dict[str, Packed] = field(default_factory=dict)
    dtype: str = ""
    cost: Cost | None = None
    weights: float = 1.0
    inference: float = 1.0


@dataclass(frozen=True)
class Recovered:
    """What an attack returned.

    Attributes:
        digest: SHA-256 of its weights.
        residual: ‖recovered − victim‖ ÷ ‖victim − base‖ over the tensors that the lock changed.
        tied_cost: Kind of site → tied cost to the base.
        change: max |Δ logits| ÷ max |logits| against the protected model, in float64.
    """

    digest: str
    residual: float | None
    tied_cost: dict[str, float]
    change: float | None
    cost: Cost


@dataclass(frozen=True)
class Merged:
    """A merge.

    Attributes:
        tasks: Task → one result per test item.
        watched: Own task → score on the half of the attacker's validation data that no attack is given.
        answers: Under the victim's head, on the attacker's own inputs.
        stored: Where every expert is kept whole, what has to be stored over one model.
        inference: There, the CPU time of a forward pass over that of one model.
        beside: As of `Scored`, of the merge on the victim's task.
    """

    tasks: dict[str, Packed]
    watched: dict[str, float]
    answers: list[int]
    cost: Cost
    stored: float | None = None
    inference: float | None = None
    beside: list[tuple[str, Packed]] = field(default_factory=list)


Record = Scored | Tried | Tuned | Locked | Recovered | Merged
RECORDS: Mapping[Kind, type[Any]] = {
    "alone": Scored,
    "try": Tried,
    "tune": Tuned,
    "lock": Locked,
    "attack": Recovered,
    "merge": Merged,
}


@lru_cache(maxsize=8)
def _adapter(kind: Kind) -> TypeAdapter[Any]:
    return TypeAdapter(RECORDS[kind])


def plain(kind: Kind, record: Record) -> dict[str, Any]:
    """A record as JSON holds it."""
    return _adapter(kind).dump_python(record, mode="json")  # type: ignore[no-any-return]


def parsed(kind: Kind, values: Mapping[str, Any]) -> Any:
    """Undoes `plain`.

    Raises:
        ValueError: If the values are no such record.
    """
    return _adapter(kind).validate_python(values)


@dataclass(frozen=True)
class Outcome:
    """How a step ended.

    Attributes:
        status: `"ok"`, `"error"`, `"timeout"` or `"skipped"`.
        record: Where it is ok.
        reason: Where it is not, a sentence without its full stop.
        inapplicable: Whether an attack has said that it is not for such a checkpoint, or no such lock can be planted.
        traceback: Of an exception that no plugin is expected to raise.
        memory: Bytes with which the run could compute it, where it is skipped for want of memory.
        gpu: The model of the GPU that a record was computed on; empty for the CPU.
    """

    status: Literal["ok", "error", "timeout", "skipped"]
    record: Any = None
    reason: str = ""
    inapplicable: bool = False
    traceback: str = ""
    memory: int = 0
    gpu: str = ""
