"""What was measured, as rows of `results.json`: everything that verdicts rest on."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field

from redteam.evaluation.statistics import Interval

Status = Literal["ok", "error", "timeout", "skipped"]


class Model(BaseModel):
    """Values that do not change."""

    model_config = ConfigDict(frozen=True, extra="forbid", json_schema_serialization_defaults_required=True)


@dataclass(frozen=True)
class Place:
    """What a verdict speaks of: a defense in a scenario under a threat model."""

    scenario: str
    defense: str
    threat: str

    def __str__(self) -> str:
        return f"{self.defense} on {self.scenario} under {self.threat}"


class Placed(Model):
    """A row about one place."""

    scenario: str
    defense: str
    threat: str

    @property
    def place(self) -> Place:
        """What the row is about."""
        return Place(self.scenario, self.defense, self.threat)


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
    copied: float = 0.0


class Cell(Placed):
    """One pairing under one seed and key.

    Attributes:
        scores: `theft`, `counted` (see `Figure`), `advantage`, `protection`, `recovery`, `residual`, `change`, `seen`
            and, by dtype, `fidelity`.
        tasks: Task → n of the merge.
        cost: `seconds` (of CPU time), `megabytes`, `labels`, `steps`, `merge_seconds`.
    """

    seed: int
    victim: str
    key: int
    attack: str
    role: str
    merger: str
    status: Status
    reason: str = ""
    scores: dict[str, Any] = Field(default_factory=dict)
    tasks: dict[str, float] = Field(default_factory=dict)
    cost: dict[str, float | None] = Field(default_factory=dict)


ControlKind = Literal[
    "gain", "trivial", "floor", "gone", "harmless", "planted", "extent", "weakened", "ceiling", "monotone"
]


class Control(Model):
    """One check that the evaluation itself can be trusted.

    Attributes:
        control: Which kind (`redteam.evaluation.controls`).
        defense: Empty where the control speaks of an attack whatever the defense.
        site, group: Of planted locks: what was planted, in words.
        passed: Whether it came out as it must.
        partial: For planted locks: not passed, but half of the theft or more came back.
        p: For floors and trivial attackers: the p-value that theft is over the limit by chance, Holm-corrected.
        warning: Whether it only warns: no verdict depends on it.
    """

    control: ControlKind
    scenario: str
    defense: str = ""
    threat: str = ""
    attack: str = ""
    site: str = ""
    group: str = ""
    passed: bool
    partial: bool = False
    status: Status = "ok"
    value: float | None = None
    limit: float
    p: float | None = None
    explanation: str
    warning: bool = False


class SeedFigure(Model):
    """What a figure is under one seed, in the worst case over what it may choose from.

    Attributes:
        key, attack, merger: The pairing behind it; of a worst case the one that was best on more of the test items.
        theft: Of that pairing.
        counted: What verdicts count (see `Figure`), with its own 95 % interval over test items, `low` to `high`.
        sure: The lower bound of `counted`, corrected for a hundred pairings and seeds; from half on, it has fallen.
    """

    seed: int
    key: int
    attack: str
    merger: str
    theft: float
    counted: float
    low: float
    high: float
    sure: float


class Figure(Placed):
    """One attack with one merger against one defense over all seeds and keys, or the worst case over several.

    Attributes:
        choice: `"attack"` for one attack with one merger; `"naive"` for the worst case of merging without an attack;
            `"worst"` for the worst case over all attacks, mergers and keys, which verdicts speak of; `"seen"` for what
            an attacker would choose by what they see.
        attack, merger: Of a choice over several the pairing that was picked on most seeds.
        whole: Whether the merger keeps every expert whole: no choice is among such figures, and no verdict counts them.
        counted: What verdicts count: theft, or for attacks with the victim's data the part of it that the victim was of
            use for (`advantage`).
        advantage: Theft minus that of the same attack with the same budget started from the base; `None` for attacks
            without data.
        per_seed: The figure seed by seed.
        labels: Labelled samples of the victim's task that were used, on average.
        seconds: CPU seconds, on average.
        key_spread: The largest difference of the residual between two keys of one seed; an exact fit has none.
        cells: How many (seed, key) pairs are behind it.
        planned: How many there would be had everything run that was asked for.
        spared: On how many of them it was not needed, since an earlier member of its gauntlet was enough.
        inapplicable: On how many of them the attack said that it is not for such a checkpoint.
        by: Of a choice over several: attack → on how many seeds it is the one that was picked.
        status: `"ok"`, or what happened where not a single cell has a result; then there is no theft.
        reason: The first failure among its cells, whether or not others have a result.
    """

    choice: Literal["attack", "naive", "worst", "seen"] = "attack"
    attack: str
    role: str
    merger: str
    whole: bool = False
    status: Status
    reason: str = ""
    theft: Interval | None = None
    counted: Interval | None = None
    advantage: Interval | None = None
    per_seed: tuple[SeedFigure, ...] = ()
    residual: float | None = None
    key_spread: float | None = None
    seen: float | None = None
    labels: float | None = None
    steps: float | None = None
    seconds: float | None = None
    megabytes: float | None = None
    cells: int = 0
    planned: int = 0
    spared: int = 0
    inapplicable: int = 0
    by: dict[str, int] = Field(default_factory=dict)


FELL_BEFORE = "the lock fell before its turn"
"""Why a merger of a gauntlet has no figure, as a rule."""


class ByMerger(Placed):
    """A defense under one of several mergers: which of them it stops, and which walk around it.

    Attributes:
        gain: What the unlocked victim adds to the merge; `None` where the merger had no turn: the lock fell before.
        telling: Whether that is enough for theft to mean anything; what tells nothing counts for no verdict.
        naive: Theft without an attack, in the worst case over lengths of the task vector and keys.
        worst: Theft after all attacks that ran.
        attack: Behind it, on most seeds.
        cells: How many pairings are behind it.
        reason: Why there is no figure, or why it says nothing.
    """

    merger: str
    gain: Interval | None = None
    telling: bool = False
    naive: Interval | None = None
    worst: Interval | None = None
    attack: str = ""
    cells: int = 0
    reason: str = ""


class WholeMerge(Placed):
    """What a merger that keeps every expert whole makes of a defense, and what it costs; no verdict counts it.

    Attributes:
        stored: What has to be stored over one model, in bytes.
        inference: The CPU time of a forward pass over that of one model, the median over merges.
        gain: What the unlocked victim adds to such a merge; where that is too little, nothing can be stolen.
        theft: Without any attack, in the worst case over keys and lengths of the task vector.
        attacked: In the worst case over attacks and keys, no attack among them.
        attack: The one behind it on most seeds.
        cells: How many of its pairings have a result.
        reason: Why there is no theft, or the first failure among its pairings.
    """

    merger: str
    stored: float | None = None
    inference: float | None = None
    gain: Interval | None = None
    theft: Interval | None = None
    attacked: Interval | None = None
    attack: str = ""
    cells: int = 0
    reason: str = ""


class Beside(Model):
    """What a scenario's victim task counts, where that is more than its score: shares of its test items.

    Attributes:
        what: `"victim"` for the victim alone, `"without"` for the merge of the companions, `"unlocked"` for the merge
            with the victim as it is, `"locked"` for that with the protected victim, without an attack, `"worst"` for
            what the verdict speaks of.
        defense, threat, attack, merger: Where they matter.
        figures: By the task's names, its score first.
    """

    what: Literal["victim", "without", "unlocked", "locked", "worst"]
    scenario: str
    defense: str = ""
    threat: str = ""
    attack: str = ""
    merger: str = ""
    figures: dict[str, Interval]


class Adversary(Model):
    """An attack of the plan that names the defense as its target.

    Attributes:
        author: The distribution or the file that it comes from.
        own: Whether that is where the defense comes from, too.
        ran: Whether it ran to its end on this defense under every seed and key.
        covers: Whether every tensor that the defense changes lies at a site of a kind that the attack claims to undo.
            One that claims none proves itself on the weakened variant alone, and covers a defense that seals or shows
            at no kind of sites: who undoes a change of basis can say which.
        as_strong: Whether the planted locks that it undid lie as far from the base as the defense, kind by kind.
        same_extent: Whether the weakened variant changed all tensors, in all shapes, that the defense itself changed.
    """

    attack: str
    author: str
    own: bool
    ran: bool
    covers: bool
    as_strong: bool = False
    same_extent: bool


class Subject(Placed):
    """What is known of a place beside what was stolen: with figures and controls, all that a verdict rests on.

    Attributes:
        protects: Whether the defense is meant to protect; gates speak of no other.
        published: Whether it comes from a source that reports an effect on merges.
        exact: Whether it claims to keep the function.
        keyed: Whether it draws on a key.
        change: The largest relative change of the outputs among its locks, where it claims that there is none.
        worth: Accuracy above chance of the protected model alone ÷ that of the victim, in float32, over seeds.
        fidelity: Dtype → accuracy of the protected model alone ÷ that of the victim.
        released: The dtype that the model is released in.
        gains: Merger → what the unlocked victim adds to the merge on its own task.
        copied: Merger → what theft would count of the victim as it is, with nothing merged.
        left_out: Mergers of which no verdict is drawn: their unlocked merge gains too little, or keeps so little of the
            companions that the victim's copy would count as theft.
        adversaries: The attacks that were made for this defense.
        missing: Sentences on what failed or ran out of time.
        ceilings: Attacks that have everything, whose success shows that there is something to get.
        tried: Which controls were computed: kind and attack, whether or not there was anything to control.
        keys: Under how many keys it was tried.
    """

    protects: bool
    published: bool
    exact: bool
    keyed: bool
    change: float | None = None
    worth: Interval | None = None
    fidelity: dict[str, Interval] = Field(default_factory=dict)
    released: str = ""
    gains: dict[str, Interval] = Field(default_factory=dict)
    copied: dict[str, Interval] = Field(default_factory=dict)
    left_out: tuple[str, ...] = ()
    adversaries: tuple[Adversary, ...] = ()
    missing: tuple[str, ...] = ()
    ceilings: tuple[str, ...] = ()
    tried: tuple[tuple[ControlKind, str], ...] = ()
    keys: int = 1
