"""Uncertainty: test items resampled jointly within a seed, the seed as the unit between seeds.

Within a seed a figure is a vector: entry 0 is its value, the others its values under resampled test items. The same
resample serves every model of that seed, so that numerators and denominators move together.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from statistics import NormalDist
from typing import Any

import numpy as np

Vector = np.ndarray[Any, np.dtype[np.float64]]
RESAMPLES = 2000
CONFIDENCE = 0.95
TAIL = (1 - CONFIDENCE) / 2


@dataclass(frozen=True)
class Interval:
    """A figure with its uncertainty.

    Attributes:
        mean: Its value; the mean over seeds where there are several.
        low, high: A 95 % interval.
        seeds: Over how many seeds.
        over: `"test items"` (one seed), `"seeds, preliminary"` (two to four: the widest of the seeds' own intervals, so
            that a bound holds only where all seeds agree), or `"seeds"` (five and more: Student's t).
    """

    mean: float
    low: float
    high: float
    seeds: int
    over: str

    @property
    def rest(self) -> Interval:
        """What is left of 1."""
        return Interval(1 - self.mean, 1 - self.high, 1 - self.low, self.seeds, self.over)

    def __str__(self) -> str:
        return f"{self.mean:.2f} [{self.low:.2f}, {self.high:.2f}]"


@lru_cache(maxsize=128)  # one for each task of every seed: drawing them anew at every look is what takes time
def weights(count: int, tag: str) -> np.ndarray[Any, np.dtype[np.float32]]:
    """How often each of `count` test items counts in each resample, `[1 + RESAMPLES, count]`; row 0 is all ones.

    They are whole numbers, so that sums of them are exact in float32.

    Args:
        count: Number of test items.
        tag: Names the stream: the same tag and count give the same resamples.
    """
    seed = int.from_bytes(hashlib.sha256(f"resample\0{tag}".encode()).digest()[:8], "big")
    generator = np.random.Generator(np.random.PCG64(seed))
    drawn = generator.multinomial(count, np.full(count, 1 / count), size=RESAMPLES)
    return np.concatenate([np.ones((1, count), np.float32), drawn.astype(np.float32)])


@lru_cache(maxsize=64)
def halves(count: int, tag: str) -> tuple[Vector, Vector]:
    """Two halves of `count` test items, the same for the same tag: 1 for what is in it, each `[count]`."""
    seed = int.from_bytes(hashlib.sha256(f"halves\0{tag}".encode()).digest()[:8], "big")
    order = np.random.Generator(np.random.PCG64(seed)).permutation(count)
    first = np.zeros(count)
    first[order[: count // 2]] = 1.0
    return first, 1.0 - first


def unseen(count: int, level: float = TAIL) -> float:
    """The largest share of items that may differ although none of `count` did, with the confidence of an interval.

    The exact (Clopper and Pearson 1934) bound for 0 of n: resampling cannot see what never happened, and would give an
    interval of no width.
    """
    return float(1.0 - level ** (1.0 / count))


def enough(share: float) -> int:
    """How many test items it takes for `sure_bound` to see a difference of this share of all items."""
    return math.ceil(math.log(TAIL / 100) / math.log(1.0 - min(share, 0.999)))


def quantiles(figure: Vector) -> tuple[float, float]:
    """The percentile bootstrap interval of one seed's figure."""
    low, high = np.quantile(figure[1:], [TAIL, 1 - TAIL])
    return float(low), float(high)


def sure_bound(figure: Vector, items: int, scale: float) -> float:
    """A lower bound that stands although the figure is the best of as many as a hundred (Bonferroni).

    The number is fixed, so that trying one more changes nothing for the others. By the normal approximation, since as
    many resamples do not reach so far into the tail.
    """
    level = TAIL / 100
    spread = -NormalDist().inv_cdf(level) * float(figure[1:].std())
    return float(figure[0]) - max(spread, unseen(items, level) * scale)


def combine(
    figures: Sequence[Vector], *, lowest: float = -np.inf, highest: float = np.inf, resolution: float = 0.0
) -> Interval:
    """One interval from the figures of all seeds; never narrower than those of its seeds.

    Args:
        figures: Per seed a vector as described above.
        lowest: Where the scale begins; the interval is cut there.
        highest: Where it ends.
        resolution: The least distance of the bounds from the mean: what the number of test items cannot tell apart.

    Raises:
        ValueError: If there is no figure.
    """
    if not figures:
        raise ValueError("no figure to combine")
    points = np.array([figure[0] for figure in figures])
    bounds = np.array([quantiles(figure) for figure in figures])
    mean = float(points.mean())
    if len(figures) >= 5:
        from scipy.special import stdtrit

        half = float(stdtrit(len(points) - 1, 1 - TAIL)) * points.std(ddof=1) / len(points) ** 0.5
        own = np.abs(bounds - points[:, None]).mean(axis=0)
        low, high, over = mean - max(half, own[0]), mean + max(half, own[1]), "seeds"
    else:
        low, high = bounds[:, 0].min(), bounds[:, 1].max()
        over = "test items" if len(figures) == 1 else "seeds, preliminary"
    return Interval(
        mean,
        float(np.clip(min(low, mean - resolution), lowest, highest)),
        float(np.clip(max(high, mean + resolution), lowest, highest)),
        len(points),
        over,
    )


def drops(figures: Sequence[Vector]) -> float:
    """The one-sided p-value of a paired difference being negative by chance, the seed as the unit.

    Args:
        figures: Per seed a vector of differences, as described above. With one seed its resamples are used.
    """
    points = np.array([figure[0] for figure in figures])
    if len(points) == 1:
        return float((1 + np.count_nonzero(figures[0][1:] >= 0)) / len(figures[0]))
    if not points.std():
        return 0.5 ** len(points) if points[0] < 0 else 1.0
    from scipy.stats import ttest_1samp

    return float(ttest_1samp(points, 0.0, alternative="less").pvalue)


def holm(p_values: Sequence[float]) -> list[float]:
    """p-values corrected for how many there are (Holm 1979), in the order given."""
    order = np.argsort(p_values)
    corrected, running = np.ones(len(p_values)), 0.0
    for rank, index in enumerate(order):
        running = max(running, min(1.0, (len(p_values) - rank) * p_values[index]))
        corrected[index] = running
    return [float(value) for value in corrected]
