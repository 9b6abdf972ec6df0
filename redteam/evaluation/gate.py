"""The gate: what `--fail-on` asks of the verdicts, `metric[.part] op number`, and the answer.

    theft>=0.5          fails where the mean of theft reaches one half
    theft.high>=0.5     fails where not even the upper bound of its interval stays under one half
    fidelity<0.985      fails where the protected model alone loses accuracy, in the dtype where it loses most

Metrics are `theft`, `counted`, `advantage`, `protection`, `fidelity` (the lowest of all dtypes) and `fidelity.DTYPE`;
parts are `mean` (the default), `low` and `high`; operators are `>=`, `>`, `<=` and `<`.
"""

from __future__ import annotations

import math
import operator
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

from redteam.errors import BadInput
from redteam.evaluation.results import Gate, Verdict
from redteam.evaluation.statistics import Interval

_METRICS = ("theft", "counted", "advantage", "protection", "fidelity")
_PARTS = ("mean", "low", "high")
_OPERATORS: Mapping[str, Callable[[float, float], bool]] = {
    ">=": operator.ge,
    ">": operator.gt,
    "<=": operator.le,
    "<": operator.lt,
}
_FORM = re.compile(r"\s*([a-z0-9_.]+?)\s*(>=|<=|>|<)\s*(\S+)\s*")
_HELP = "write it as in 'theft>=0.5', 'theft.high>=0.5' or 'fidelity.float16<0.985'"


@dataclass(frozen=True)
class Condition:
    """One expression, read: a verdict for which it is true fails the gate.

    Attributes:
        text: As written.
        metric: `"theft"`, `"counted"`, `"advantage"`, `"protection"` or `"fidelity"`.
        dtype: For fidelity, which; the lowest of all where it is empty.
        part: `"mean"`, `"low"` or `"high"`.
        comparison: `">="`, `">"`, `"<="` or `"<"`.
        limit: What the figure is compared with.
    """

    text: str
    metric: str
    dtype: str
    part: str
    comparison: str
    limit: float

    @classmethod
    def parse(cls, text: str) -> Condition:
        """Reads an expression.

        Raises:
            BadInput: If it is none.
        """
        found = _FORM.fullmatch(text)
        if not found:
            raise BadInput(f"Cannot read the gate {text!r}; {_HELP}.")
        left, comparison, right = found.groups()
        metric, *rest = left.split(".")
        part = rest.pop() if rest and rest[-1] in _PARTS else "mean"
        if metric not in _METRICS or len(rest) > (metric == "fidelity") or "" in rest:
            raise BadInput(
                f"Cannot read the gate {text!r}: {left!r} is no figure of a verdict; known are {', '.join(_METRICS)} "
                f"with .mean, .low or .high, and fidelity.DTYPE; {_HELP}."
            )
        try:
            limit = float(right)
        except ValueError:
            limit = math.nan
        if not math.isfinite(limit):
            raise BadInput(f"Cannot read the gate {text!r}: {right!r} is no number; {_HELP}.")
        return cls(text.strip(), metric, rest[0] if rest else "", part, comparison, limit)

    def value(self, verdict: Verdict) -> float | None:
        """The figure that it asks for, `None` where the verdict has none."""
        if self.metric != "fidelity":
            interval: Interval | None = getattr(verdict, self.metric)
            return None if interval is None else float(getattr(interval, self.part))
        wanted = (self.dtype,) if self.dtype else tuple(verdict.fidelity)
        values = [float(getattr(verdict.fidelity[dtype], self.part)) for dtype in wanted if dtype in verdict.fidelity]
        return min(values, default=None)

    def fails(self, verdict: Verdict) -> bool | None:
        """Whether the verdict fails it; `None` where that is undefined.

        No figure of a verdict UNSCORABLE or INVALID decides anything: that word says that it cannot be trusted.
        """
        value = None if verdict.verdict in ("UNSCORABLE", "INVALID") else self.value(verdict)
        return None if value is None or math.isnan(value) else _OPERATORS[self.comparison](value, self.limit)


def gate(verdicts: Iterable[Verdict], expressions: Sequence[str]) -> Gate:
    """What the gate says of the verdicts that it speaks of (`Verdict.gated`).

    It is undefined where it is for one of them, or where there is none; else it failed where one of them fails one of
    the expressions; else it held.

    Args:
        verdicts: All verdicts of a run.
        expressions: At least one.

    Raises:
        BadInput: If an expression cannot be read.
    """
    conditions = [Condition.parse(text) for text in expressions]
    failed, undefined = [], []
    spoken = [verdict for verdict in verdicts if verdict.gated]
    for verdict in spoken:
        where = (verdict.scenario, verdict.defense, verdict.threat)
        answers = [condition.fails(verdict) for condition in conditions]
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
        return f"{head} is undefined: no verdict is there that it speaks of."
    return f"{head} is undefined for {undefined}" + (f", and failed for {failed}." if failed else ".")


def _listed(places: Iterable[tuple[str, str, str]]) -> str:
    return "; ".join(f"{defense} on {scenario} under {threat}" for scenario, defense, threat in places)
