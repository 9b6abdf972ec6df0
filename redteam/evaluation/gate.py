"""The gate: what `--fail-on` asks of the verdicts, and the answer.

    verdict!=HOLDS-SO-FAR   fails unless the defense held against everything that was tried
    verdict==BROKEN         fails where an attack took the protection off
    theft>=0.5              fails where theft, in the worst case over attacks and seeds, reaches one half
    theft.high>=0.5         fails where not even the upper bound of its interval stays under one half
    fidelity<0.985          fails where the protected model alone loses accuracy, in the dtype where it loses most

Figures are `theft`, `counted`, `advantage`, `protection`, `fidelity` (the lowest of all dtypes) and `fidelity.DTYPE`,
each with `.mean` (the default), `.low` or `.high`, compared with `>=`, `>`, `<=` or `<`. Words are compared with `==`
or `!=`. A gate whose answer does not depend on what is found is refused.
"""

from __future__ import annotations

import difflib
import math
import operator
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal, get_args

from redteam.errors import BadInput, UnknownName
from redteam.evaluation.results import Gate, Verdict
from redteam.evaluation.rows import Figure
from redteam.evaluation.statistics import Interval
from redteam.evaluation.verdict import Word

_RANGES: Mapping[str, tuple[float, float]] = {
    "theft": (0.0, 1.0),
    "counted": (0.0, 1.0),
    "advantage": (-1.0, 1.0),
    "protection": (0.0, 1.0),
    "fidelity": (0.0, math.inf),
}
"""Figure → the least and the largest value that it can have."""
_PARTS = ("mean", "low", "high")
_ORDERINGS: Mapping[str, Callable[[float, float], bool]] = {
    ">=": operator.ge,
    ">": operator.gt,
    "<=": operator.le,
    "<": operator.lt,
}
_FIGURE = re.compile(r"\s*([a-z0-9_.]+?)\s*(>=|<=|>|<)\s*([^\s=]\S*)\s*")
_WORD = re.compile(r"\s*verdict\s*(==|!=)\s*(\S+)\s*")
_HELP = "write it as in 'verdict!=HOLDS-SO-FAR', 'theft>=0.5', 'theft.high>=0.5' or 'fidelity.float16<0.985'"


@dataclass(frozen=True)
class Condition:
    """One expression, parsed: a verdict for which it is true fails the gate.

    Attributes:
        text: As written.
        metric: `"theft"`, `"counted"`, `"advantage"`, `"protection"`, `"fidelity"` or `"verdict"`.
        comparison: `">="`, `">"`, `"<="` or `"<"`; for a verdict `"=="` or `"!="`.
        limit: What the figure is compared with; for a verdict the word.
        dtype: For fidelity, which; the lowest of all where it is empty.
        part: `"mean"`, `"low"` or `"high"`.
    """

    text: str
    metric: str
    comparison: str
    limit: float | str
    dtype: str = ""
    part: str = "mean"

    @classmethod
    def parse(cls, text: str) -> Condition:
        """Parses an expression.

        Raises:
            BadInput: If it cannot be read, or its answer would not depend on what is found.
        """
        if word := _WORD.fullmatch(text):
            return cls(text.strip(), "verdict", word[1], _known(text, word[2]))
        found = _FIGURE.fullmatch(text)
        if not found:
            raise BadInput(f"Cannot read the gate {text!r}; {_HELP}.")
        left, comparison, right = found.groups()
        metric, *rest = left.split(".")
        part = rest.pop() if rest and rest[-1] in _PARTS else "mean"
        if metric == "verdict":
            raise BadInput(f"Cannot read the gate {text!r}: a verdict is compared with == or !=; {_HELP}.")
        if metric not in _RANGES or len(rest) > (metric == "fidelity") or "" in rest:
            raise BadInput(
                f"Cannot read the gate {text!r}: a verdict has no figure {left!r}, but {', '.join(_RANGES)} "
                f"with .mean, .low or .high, and fidelity.DTYPE; {_HELP}."
            )
        try:
            limit = float(right)
        except ValueError:
            limit = math.nan
        if not math.isfinite(limit):
            raise BadInput(f"Cannot read the gate {text!r}: {right!r} is not a number; {_HELP}.")
        _require_open(text, metric, comparison, limit)
        return cls(text.strip(), metric, comparison, limit, rest[0] if rest else "", part)

    def value(self, verdict: Verdict, figures: Iterable[Figure] = ()) -> float | None:
        """The figure that it compares, `None` where the verdict has none.

        Args:
            verdict: What is asked about.
            figures: Of the run. What is stolen on the worst seed counts, since an owner publishes one model.
        """
        if self.metric != "fidelity":
            interval: Interval | None = getattr(verdict, self.metric)
            if interval is None:
                return None
            value = float(getattr(interval, self.part))
            if self.metric == "protection":
                return min([value, *(1 - seed for seed in self._seeds(verdict, figures, "naive"))])
            return max([value, *self._seeds(verdict, figures, "worst")])
        wanted = (self.dtype,) if self.dtype else tuple(verdict.fidelity)
        values = [float(getattr(verdict.fidelity[dtype], self.part)) for dtype in wanted if dtype in verdict.fidelity]
        return min(values, default=None)

    def _seeds(self, verdict: Verdict, figures: Iterable[Figure], choice: str) -> list[float]:
        """What was stolen on each seed, where the metric says so seed by seed."""
        if self.metric == "advantage" or (self.metric == "theft" and verdict.advantage is not None):
            return []  # their rows hold what counts, beyond what the labels alone are worth
        part = {"mean": "counted", "low": "low", "high": "high"}[self.part]
        if self.metric == "protection":  # the more is stolen, the less is protected
            part = {"low": "high", "high": "low"}.get(part, part)
        rows = (figure for figure in figures if figure.place == verdict.place and figure.choice == choice)
        return [float(getattr(seed, part)) for figure in rows for seed in figure.per_seed]

    def fails(self, verdict: Verdict, figures: Iterable[Figure] = ()) -> bool | None:
        """Whether the verdict fails it; `None` where that is undefined.

        The word of a verdict is always defined. Its figures are not where it is UNSCORABLE or INVALID, since that says
        that they cannot be trusted.
        """
        if isinstance(self.limit, str):
            return (verdict.verdict == self.limit) == (self.comparison == "==")
        value = None if verdict.verdict in ("UNSCORABLE", "INVALID") else self.value(verdict, figures)
        return None if value is None or math.isnan(value) else _ORDERINGS[self.comparison](value, self.limit)


def gate(verdicts: Iterable[Verdict], expressions: Sequence[str], figures: Sequence[Figure] = ()) -> Gate:
    """The gate's answer for the verdicts that it speaks of (`Verdict.gated`).

    It is undefined where it is for one of them, or where there is none; else it failed where one of them fails one of
    the expressions; else it held.

    Args:
        verdicts: All verdicts of a run.
        expressions: At least one.
        figures: All figures of the run, which say what was stolen seed by seed.

    Raises:
        BadInput: If an expression cannot be read.
    """
    conditions = [Condition.parse(text) for text in expressions]
    failed, undefined = [], []
    spoken = [verdict for verdict in verdicts if verdict.gated]
    for verdict in spoken:
        where = (verdict.scenario, verdict.defense, verdict.threat)
        answers = [condition.fails(verdict, figures) for condition in conditions]
        if True in answers:
            failed.append(where)
        if None in answers:
            undefined.append(where)
    outcome: Literal["held", "failed", "undefined"] = (
        "undefined" if undefined or not spoken else "failed" if failed else "held"
    )
    return Gate(
        expression=" or ".join(condition.text for condition in conditions),
        outcome=outcome,
        failed=tuple(failed),
        undefined=tuple(undefined),
    )


def told(answer: Gate | None) -> str:
    """The gate's answer as a sentence, the same in every output."""
    if answer is None:
        return "No gate was asked for."
    head = f"The gate {answer.expression}"
    failed, undefined = _listed(answer.failed), _listed(answer.undefined)
    if answer.outcome == "held":
        return f"{head} held for every defense that it speaks of."
    if answer.outcome == "failed":
        return f"{head} failed for {failed}."
    if not undefined:
        return f"{head} is undefined: there is no verdict that it speaks of."
    return f"{head} is undefined for {undefined}" + (f", and failed for {failed}." if failed else ".")


def _known(text: str, word: str) -> str:
    words = get_args(Word)
    if word not in words:
        close = difflib.get_close_matches(word.upper(), words, n=1, cutoff=0.5)
        hint = f"did you mean {close[0]}?" if close else f"known are {', '.join(words)}."
        raise UnknownName(f"Cannot read the gate {text!r}: there is no verdict {word!r}; {hint}")
    return word


def _require_open(text: str, metric: str, comparison: str, limit: float) -> None:
    """Refuses a comparison that has the same answer for every value of the figure.

    Raises:
        BadInput: If it has.
    """
    low, high = _RANGES[metric]
    compare = _ORDERINGS[comparison]
    # An ordering is monotone, so that the two ends of the range say what lies between them.
    answers = {compare(low, limit), compare(high, limit)}
    if len(answers) == 1:
        bounds = f"is never below {low:g}" if math.isinf(high) else f"lies between {low:g} and {high:g}"
        outcome = "always fails" if True in answers else "can never fail"
        raise BadInput(
            f"The gate {text.strip()} {outcome}, since {metric} {bounds}; choose a limit that some values meet."
        )


def _listed(places: Iterable[tuple[str, str, str]]) -> str:
    return "; ".join(f"{defense} on {scenario} under {threat}" for scenario, defense, threat in places)
