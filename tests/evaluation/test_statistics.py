"""Intervals cover what they promise, and seeds are the unit."""

import numpy as np
import pytest

from redteam.evaluation.statistics import combine, weights


def test_the_same_tag_gives_the_same_resamples_and_another_tag_others() -> None:
    assert np.array_equal(weights(50, "a"), weights(50, "a"))
    assert not np.array_equal(weights(50, "a"), weights(50, "b"))


def test_every_resample_counts_all_items_and_the_first_row_is_the_sample_itself() -> None:
    drawn = weights(37, "t")
    assert np.all(drawn.sum(1) == 37)
    assert np.all(drawn[0] == 1)


def test_one_seed_covers_the_truth_as_often_as_promised() -> None:
    generator = np.random.default_rng(1)
    covered = 0
    for trial in range(200):
        sample = generator.random(300) < 0.7
        interval = combine([weights(300, str(trial)) @ sample / 300])
        covered += interval.low <= 0.7 <= interval.high
    assert 180 <= covered <= 199


def test_five_seeds_use_students_t_over_seeds() -> None:
    from scipy.stats import t

    values = np.array([0.1, 0.2, 0.3, 0.4, 0.5])
    interval = combine([np.full(11, value) for value in values])
    expected = t.interval(0.95, 4, loc=0.3, scale=values.std(ddof=1) / 5**0.5)
    assert (interval.low, interval.high) == pytest.approx(expected)
    assert interval.over == "seeds"


def test_few_seeds_give_a_bound_that_holds_only_where_all_agree() -> None:
    generator = np.random.default_rng(0)
    figures = [np.concatenate([[m], generator.normal(m, 0.05, 500)]) for m in (0.9, 0.3, 0.8)]
    interval = combine(figures)
    assert interval.low < 0.3 < 0.9 < interval.high
    assert "preliminary" in interval.over


def test_bounds_of_the_scale_are_kept() -> None:
    interval = combine([np.full(5, value) for value in (0.0, 1.0, 1.0, 1.0, 1.0)], lowest=0.0, highest=1.0)
    assert interval.high == 1.0


def test_nothing_cannot_be_combined() -> None:
    with pytest.raises(ValueError, match="no figure"):
        combine([])
