"""Uncertainty: test items resampled jointly within a seed, the seed as the unit between seeds.

Within a seed a figure is a vector: entry 0 is its value, the others its values under resampled test items. The same
resample serves every model of that seed, so that numerators and denominators move together.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

Vector = np.ndarray[Any, np.dtype[np.float64]]
RESAMPLES = 2000
CONFIDENCE = 0.95


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

    def __str__(self) -> str:
        return f"{self.mean:.2f} [{self.low:.2f}, {self.high:.2f}]"


def weights(count: int, tag: str) -> Vector:
    """How often each of `count` test items counts in each resample, `[1 + RESAMPLES, count]`; row 0 is all ones.

    Args:
        count: Number of test items.
        tag: Names the stream: the same tag and count give the same resamples.
    """
    seed = int.from_bytes(hashlib.sha256(f"resample\0{tag}".encode()).digest()[:8], "big")
    generator = np.random.Generator(np.random.PCG64(seed))
    drawn = generator.multinomial(count, np.full(count, 1 / count), size=RESAMPLES)
    return np.concatenate([np.ones((1, count)), drawn.astype(np.float64)])


def combine(figures: Sequence[Vector], *, lowest: float = -np.inf, highest: float = np.inf) -> Interval:
    """One interval from the figures of all seeds.

    Args:
        figures: Per seed a vector as described above.
        lowest: Where the scale begins; the interval is cut there.
        highest: Where it ends.

    Raises:
        ValueError: If there is no figure.
    """
    if not figures:
        raise ValueError("no figure to combine")
    points = np.array([figure[0] for figure in figures])
    if len(figures) >= 5:
        from scipy.stats import t

        half = float(t.ppf(0.5 + CONFIDENCE / 2, len(points) - 1)) * points.std(ddof=1) / len(points) ** 0.5
        low, high, over = points.mean() - half, points.mean() + half, "seeds"
    else:
        tail = (1 - CONFIDENCE) / 2
        bounds = np.array([np.quantile(figure[1:], [tail, 1 - tail]) for figure in figures])
        low, high = bounds[:, 0].min(), bounds[:, 1].max()
        over = "test items" if len(figures) == 1 else "seeds, preliminary"
    mean = float(points.mean())
    return Interval(
        mean,
        float(np.clip(min(low, mean), lowest, highest)),
        float(np.clip(max(high, mean), lowest, highest)),
        len(points),
        over,
    )
