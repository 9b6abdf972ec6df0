"""What is said of skills: what base and experts can do, what the victim adds to a merge, how many items it takes."""

from __future__ import annotations

import math
from collections.abc import Iterator
from itertools import islice
from statistics import NormalDist
from typing import Any

import numpy as np

from redteam.checking.trial import Trial
from redteam.evaluation.baselines import Baselines
from redteam.evaluation.statistics import TAIL, combine, enough
from redteam.evaluation.thresholds import THRESHOLDS
from redteam.plugins.remarks import Remark

SURE = 2.0
"""By how many standard errors an expert has to be better than guessing, and than the base."""


def accuracies(found: Trial) -> Iterator[Remark]:
    """The scores of each expert and of the base under its head."""
    for name, packed in found.alone.experts.items():
        expert, base = (held.unpack().astype(np.float64) for held in (packed, found.alone.base[name]))
        chance = found.alone.chance[name]
        digits = 2 if packed.bits else 3  # what is no accuracy may lie within a tenth
        held = {"expert": expert.mean(), "base": base.mean(), "guessing": chance}
        figures = ", ".join(f"{what} {round(value, digits) + 0.0:.{digits}f}" for what, value in held.items())
        told = f"{name!r}: {figures}, on {packed.n} test items"
        if expert.mean() - chance <= SURE * _error(expert):
            yield Remark("WRONG", "scores", f"{told}; the expert cannot do its task, so check labels and columns")
        elif (expert - base).mean() <= SURE * _error(expert - base):
            yield Remark("note", "scores", f"{told}; under its head the base does hardly worse")
        else:
            yield Remark("ok", "scores", told)


def gain(found: Trial, items: int) -> Iterator[Remark]:
    """What the victim adds to its task's n in each merger's merge, and how many test items the verdict needs.

    Args:
        found: The first merger's comes first.
        items: How many test items the victim's task has.
    """
    limit, said = THRESHOLDS.gain, []
    for merger, baselines in found.baselines.items():
        gained = combine([baselines.gain])
        said.append((merger, gained, "ok" if gained.low >= limit else "WRONG" if gained.high < limit else "note"))
    for merger, gained, state in said:
        told = f"with {merger} the victim adds {gained} of its own skill to the merge"
        some = any(other != "WRONG" for _, _, other in said)
        if state == "WRONG":
            told += f", too little to be stolen (it takes {limit})"
        elif state == "note":
            told += f"; whether that is the {limit} that it takes, more items will tell"
        yield Remark("note" if state == "WRONG" and some else state, "gain", told)  # type: ignore[arg-type]
    telling = ((merger, held) for merger, held in found.baselines.items() if float(held.gain[0]) > limit)
    for merger, baselines in islice(telling, 1):
        yield _items(merger, baselines, items)


def _items(merger: str, baselines: Baselines, items: int) -> Remark:
    least = enough(THRESHOLDS.stolen / baselines.theft_of_all)
    wanted = max(least, needed(baselines))
    told = f"the verdict takes about {wanted} test items of {baselines.victim!r} (with {merger}); there are {items}"
    if items < least:
        return Remark("WRONG", "items", f"{told}, and with fewer than {least} the run ends")
    return Remark("ok" if items >= wanted else "note", "items", told)


def needed(baselines: Baselines) -> int:
    """Test items from which on a gain as large as this one is surely enough, and all of it stolen surely half.

    Both bounds come closer with the square root of the number of items.
    """
    value = float(baselines.gain[0])
    spread = float(baselines.gain[1:].std()) * baselines.items**0.5
    usual, sure = -NormalDist().inv_cdf(TAIL), -NormalDist().inv_cdf(TAIL / 100)
    gained: float = (usual * spread / (value - THRESHOLDS.gain)) ** 2
    stolen: float = (sure * spread / ((1 - THRESHOLDS.stolen) * value)) ** 2
    return math.ceil(max(gained, stolen))


def _error(values: np.ndarray[Any, np.dtype[np.float64]]) -> float:
    """The standard error of a mean; never 0, since a few items that agree prove little."""
    return float(values.std() or 1 / len(values) ** 0.5) / float(len(values) ** 0.5)
