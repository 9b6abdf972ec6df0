"""What a comparison found: the contract for scripts, written as JSON."""

from __future__ import annotations

from typing import Literal

from pydantic import BaseModel, ConfigDict, Field

from redteam.evaluation.statistics import Interval
from redteam.notebook import html

Relation = Literal["same", "regauged", "near", "near-regauged", "far", "stranger", "apart", "unknown"]


class Row(BaseModel):
    """Values that do not change."""

    model_config = ConfigDict(frozen=True, extra="forbid")


class Entry(Row):
    """Something that stands under one name in both and is not the same; of lists what only one of them has."""

    name: str
    a: str
    b: str


class VerdictChange(Row):
    """A verdict that is not what it was.

    Attributes:
        before, after: The words; the same where only flags changed.
        raised, dropped: Flags that only the second one has, and only the first one.
        reason: Why it is what it is now.
        counts: Whether the exit code says so: the word changed, of a defense that is meant to protect.
    """

    scenario: str
    defense: str
    threat: str
    before: str
    after: str
    raised: tuple[str, ...] = ()
    dropped: tuple[str, ...] = ()
    reason: str
    counts: bool


class Parted(Row):
    """A figure whose two 95 % intervals have no point in common.

    Attributes:
        table: Of `results.json`.
        figure: Such as `"theft"` or `"fidelity.float16"`.
    """

    table: str
    scenario: str
    defense: str
    threat: str
    attack: str = ""
    merger: str = ""
    figure: str
    before: Interval
    after: Interval


class ControlChange(Row):
    """A control that came out otherwise: `"passed"`, `"failed"`, or how many of several passed."""

    control: str
    scenario: str
    defense: str = ""
    threat: str = ""
    attack: str = ""
    site: str = ""
    group: str = ""
    before: str
    after: str


class OnlyIn(Row):
    """A verdict that only one run has, or, at a place that both judge, an attack with a merger."""

    scenario: str
    defense: str
    threat: str
    attack: str = ""
    merger: str = ""


class RunDiff(Row):
    """How two runs differ.

    Attributes:
        schema_: Raised when a field changes its meaning; `"schema"` in JSON.
        a, b: What was read, as it was named.
        verdicts: Those that changed, of all places that both judge.
        figures: Those whose intervals part.
        compared: How many figures both have.
        moved: How many of these are not the same to the last digit.
        controls: Those that came out otherwise.
        only_a, only_b: Rows that only one of them has.
        plan: Entries of the two plans that differ.
        engine: What else figures depend on, where it differs: program, engine, libraries, limits, machine, scenarios.
        agreeing: How many verdicts have the same word in both.
    """

    schema_: Literal[1] = Field(default=1, alias="schema")
    kind: Literal["runs"] = "runs"
    a: str
    b: str
    verdicts: tuple[VerdictChange, ...]
    figures: tuple[Parted, ...]
    compared: int
    moved: int
    controls: tuple[ControlChange, ...]
    only_a: tuple[OnlyIn, ...]
    only_b: tuple[OnlyIn, ...]
    plan: tuple[Entry, ...]
    engine: tuple[Entry, ...]
    agreeing: int

    @property
    def changed(self) -> bool:
        """Whether a verdict changed that counts."""
        return any(verdict.counts for verdict in self.verdicts)

    def _repr_html_(self) -> str:
        return html(self)


class ShapeChange(Row):
    """A tensor of one name and two shapes."""

    name: str
    a: tuple[int, ...]
    b: tuple[int, ...]


class KindDistance(Row):
    """How far the sites of one kind are apart, in units of B's norm there, on stacks without additive freedoms.

    Attributes:
        sites: How many there are.
        equal: At how many of them nothing differs.
        groups: The group of gauges that was found between the two there, where one was.
        as_is: Distance of the weights as they are, over all of them.
        up_to_gauge: The same after the best legal gauge, which no function sees.
        furthest: The largest of a single site after that.
    """

    kind: str
    sites: int
    equal: int
    groups: tuple[str, ...] = ()
    as_is: float
    up_to_gauge: float
    furthest: float


class TensorDistance(Row):
    """How far a tensor that both have is apart, in units of B's norm: as it is, and after the best legal gauge."""

    name: str
    as_is: float
    up_to_gauge: float | None = None


class Share(Row):
    """How two task vectors over one base stand to each other.

    Attributes:
        base: What was named.
        length_a, length_b: Of the task vectors, in units of the base's norm.
        cosine: Between the two.
        a_in_b: How much of A's task vector B holds: `⟨τ_A, τ_B⟩ / ‖τ_A‖²`, 1 for the whole of it.
        b_in_a: The reverse.
    """

    base: str
    length_a: float
    length_b: float
    cosine: float | None
    a_in_b: float | None
    b_in_a: float | None


class ModelDiff(Row):
    """How two models differ.

    Attributes:
        schema_: Raised when a field changes its meaning; `"schema"` in JSON.
        a, b: What was read, as it was named.
        architectures: Their model types.
        relation: `"same"`: all tensors equal, as stored; `"regauged"`: the same function in another basis; `"near"`: as
            near as fine-tunes are; `"near-regauged"`: so in another basis; `"far"`: further than that; `"stranger"`: as
            far as networks that have nothing in common; `"apart"`: nothing can be compared; `"unknown"`: no fit can be
            made.
        summary: The findings in plain sentences.
        only_a, only_b: Names of tensors.
        shapes: Tensors of other shapes.
        dtypes: `"float32 / bfloat16"` → the tensors of which this is so.
        settings: Of the two configs, those that change what weights compute.
        shared: How many tensors have one name and shape.
        equal: How many of these are the same, bit for bit or rounded.
        distance: `‖A − B‖ / ‖B‖` over them.
        up_to_gauge: The same after the best legal gauges and additive shifts; `None` where no fit can be made.
        kinds: By kind of site.
        tensors: Every tensor that differs, the furthest first.
        share: Where a base was named.
    """

    schema_: Literal[1] = Field(default=1, alias="schema")
    kind: Literal["models"] = "models"
    a: str
    b: str
    architectures: tuple[str, str]
    relation: Relation
    summary: tuple[str, ...]
    only_a: tuple[str, ...]
    only_b: tuple[str, ...]
    shapes: tuple[ShapeChange, ...]
    dtypes: dict[str, tuple[str, ...]]
    settings: tuple[Entry, ...]
    shared: int
    equal: int
    distance: float | None
    up_to_gauge: float | None
    kinds: tuple[KindDistance, ...]
    tensors: tuple[TensorDistance, ...]
    share: Share | None = None

    def _repr_html_(self) -> str:
        return html(self)
