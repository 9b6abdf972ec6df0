"""What a search for a defense found: its trials, those that no other beats in all three respects, and the answer."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field

from redteam.evaluation.statistics import Interval
from redteam.evaluation.thresholds import THRESHOLDS
from redteam.notebook import Table, fragment
from redteam.plugins.reference import parse_chain
from redteam.search.defenders.price import LEAST, OwnersPrice
from redteam.search.study import coarse


class _Model(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class Trial(_Model):
    """A defense that was tried on the tuning data.

    Attributes:
        number: Its number in the study; −1 for the victim as it is.
        pipeline: As `redteam run --defense` takes it.
        status: `"ok"`; `"unproven"`: nothing was learnt of its theft; or why it could not be put on: `"skipped"`,
            `"error"`, `"timeout"`.
        reason: Why there is no theft.
        verdict: The word of an ordinary run on the tuning data.
        theft: What verdicts count of the worst case.
        attack: Behind it.
        spared: Whether the gauntlet ended early, so that a later member may steal more.
        fidelity: Score of the protected model alone over the victim's, as it is released.
        dtype: In which it is released.
        price: What its owner pays.
        seconds: How long the trial took, from its beginning to its end.
    """

    number: int
    pipeline: str
    status: Literal["ok", "unproven", "skipped", "error", "timeout"]
    reason: str = ""
    verdict: str = ""
    theft: Interval | None = None
    attack: str = ""
    spared: bool = False
    fidelity: Interval | None = None
    dtype: str = ""
    price: OwnersPrice | None = None
    seconds: float = 0.0

    @property
    def values(self) -> tuple[float, float, float] | None:
        """What is optimised: the upper bound of theft, fidelity and price, as finely as they can be told apart.

        More skill than the victim's own comes from training on, and is no merit of a protection. `None` where there are
        no figures.
        """
        if self.status != "ok" or self.theft is None or self.fidelity is None or self.price is None:
            return None
        return round(self.theft.high, 2), round(min(1.0, self.fidelity.mean), 3), coarse(self.price.total, LEAST)

    @property
    def short(self) -> str:
        """What is optimised, in a few words; empty where there is nothing."""
        if self.values is None:
            return ""
        theft, fidelity, price = self.values
        return f"theft up to {theft:.2f}, fidelity {fidelity:.3f}, price {price:.2g}"

    @property
    def figures(self) -> str:
        """What came of it, in words."""
        if self.status != "ok" or self.theft is None or self.fidelity is None:
            return f"nothing learnt, {self.reason}" if self.status == "unproven" else f"{self.status}, {self.reason}"
        least = " or more" if self.spared else ""
        return f"theft {self.theft}{least}, fidelity {self.fidelity.mean:.3f}, {self.price}"


class Defenses(_Model):
    """A search, as `search.json` holds it.

    Attributes:
        scenario, seed, merger, threat, attacks: What was searched in and against.
        split: What was tried on.
        wanted: How many trials were asked for.
        fidelity: The least that a defense should keep.
        imitation: Theft by whoever only runs the model; `None` where nobody imitates.
        naive: The victim as it is.
        space: The defenses, with the settings that were tuned and where.
        trials: In order, each chain once.
        repeated, exhausted: As of `redteam.search.results.SearchResults`.
        front: Numbers of the trials that none beats in theft, fidelity and price at once, the least theft first.
        seeds: On which seeds the plan repeats them.
        repeat: The command that repeats them there; empty where there is nothing to repeat.
        command: The command that repeats the search.
        environment: Versions.
    """

    schema_: int = Field(default=1, alias="schema")
    scenario: str
    seed: int
    merger: str
    threat: str
    attacks: tuple[str, ...]
    split: str
    wanted: int
    fidelity: float
    imitation: Interval | None
    naive: Trial
    space: dict[str, Any]
    trials: tuple[Trial, ...]
    repeated: int
    exhausted: bool
    front: tuple[int, ...]
    seeds: tuple[int, ...]
    repeat: str = ""
    command: str = ""
    environment: dict[str, str]

    @property
    def line(self) -> float:
        """Theft under which a protection keeps more than its release gives away to whoever runs it."""
        return self.imitation.mean if self.imitation is not None else THRESHOLDS.stolen

    @property
    def line_text(self) -> str:
        """The same, in words."""
        return f"imitation's {self.line:.2f}" if self.imitation is not None else f"{self.line:g}"

    @property
    def on_front(self) -> tuple[Trial, ...]:
        """The trials on the front, in its order."""
        by_number = {trial.number: trial for trial in self.trials}
        return tuple(by_number[number] for number in self.front)

    @property
    def best(self) -> Trial | None:
        """The least theft of those that keep the fidelity that was asked for, the cheapest of several."""
        return best(self.trials, self.fidelity)

    @property
    def holds(self) -> bool:
        """Whether its upper bound lies under the line."""
        return self.best is not None and _values(self.best)[0] < self.line

    def table(self) -> Table:
        """The trials that nothing else beats, as texts; a star is at the best."""
        best = None if self.best is None else self.best.number
        rows = [("*" if trial.number == best else "", trial.pipeline, trial.figures) for trial in self.on_front]
        return Table((), rows, "Nothing else beats these in theft, fidelity and price at once, on the tuning data:")

    def _repr_html_(self) -> str:
        again = [f"Repeat them on seeds that were not searched on: {self.repeat}"] if self.repeat else []
        return fragment(self.sentences, [self.table()], again)

    @property
    def sentences(self) -> tuple[str, ...]:
        """What was found, in words, the answer first."""
        return tuple(_sentences(self))


def front(trials: Sequence[Trial], naive: Trial) -> tuple[Trial, ...]:
    """The trials that no other beats, nor the victim as it is, the least theft first.

    One beats another that is no better in anything and worse in something; of several that are alike the shortest
    chain stays, the earlier one of two.
    """
    order = sorted(_judged((naive, *trials)), key=lambda one: (len(parse_chain(one.pipeline)), one.number))
    left: list[Trial] = []
    for trial in order:
        if not any(_beats(_values(other), _values(trial)) for other in order) and not any(
            _values(other) == _values(trial) for other in left
        ):
            left.append(trial)
    return tuple(sorted((one for one in left if one.number != naive.number), key=_best_first))


def best(trials: Sequence[Trial], fidelity: float) -> Trial | None:
    """The least theft of those that keep a fidelity, the cheapest of several; `None` where none does."""
    kept = [trial for trial in _judged(trials) if _values(trial)[1] >= fidelity]
    return min(kept, key=_best_first, default=None)


def _judged(trials: Sequence[Trial]) -> list[Trial]:
    return [trial for trial in trials if trial.values is not None]


def _values(trial: Trial) -> tuple[float, float, float]:
    assert trial.values is not None
    return trial.values


def _best_first(trial: Trial) -> tuple[float, float, float, int]:
    theft, fidelity, price = _values(trial)
    return theft, price, -fidelity, trial.number


def _beats(one: tuple[float, float, float], other: tuple[float, float, float]) -> bool:
    return one != other and one[0] <= other[0] and one[1] >= other[1] and one[2] <= other[2]


def _sentences(found: Defenses) -> Iterator[str]:
    count, judged, least = len(found.trials), _judged(found.trials), found.best
    wanted = f"at a fidelity of {found.fidelity:g} or more"
    if not judged:
        reasons = Counter(trial.reason for trial in found.trials).most_common(1)
        why = f" Most often: {reasons[0][0]}." if reasons else ""
        yield f"Of {count} trials none can be judged, so that nothing is known.{why}"
    elif least is None:
        most = max(judged, key=lambda one: (_values(one)[1], -_values(one)[0]))
        yield (
            f"Nothing of {count} keeps theft under {found.line_text} {wanted}: none keeps so much skill. "
            f"The most keeps {most.pipeline}: {most.figures}."
        )
    elif found.holds:
        yield f"{least.pipeline} keeps theft under {found.line_text} {wanted}: {least.figures}, on the tuning data."
        yield "It was attacked by what is installed, not by somebody who knows it; the plan repeats it on other seeds."
    else:
        yield (
            f"Nothing of {count} keeps theft under {found.line_text} {wanted}. "
            f"The least is stolen from {least.pipeline}: {least.figures}."
        )
    unproven = [trial for trial in found.trials if trial.status == "unproven"]
    if unproven:
        yield f"{len(unproven)} of {count} taught nothing and count neither as strong nor as weak."
    failed = count - len(judged) - len(unproven)
    if failed:
        yield f"{failed} of {count} could not be put on."
    if judged and not found.front:
        yield "None of them beats the victim as it is in theft, fidelity and price together."
    if found.exhausted:
        yield "The search ended early, since only chains that had been tried were proposed any more."
