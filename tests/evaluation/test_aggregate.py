"""Rows of figures from pairings made by hand: the worst key and attack of each seed, and what is said of the rest."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from redteam.evaluation import aggregate
from redteam.evaluation.controls.gain import left_out
from redteam.evaluation.results import Figure
from redteam.evaluation.statistics import Interval
from tests.evaluation.merges import Bench, merge

FAILED = {"status": "error", "reason": "it fell over"}
DECLINED = {"status": "skipped", "reason": "not for such shapes", "inapplicable": True}


def rows(bench: Bench, **rest: Any) -> dict[tuple[str, str], Figure]:
    """(choice, attack) → row, with one merger."""
    found = aggregate.figures(bench.table, bench.asked(), bench.pairings, **rest)
    return {(f.choice, "" if f.choice != "attack" else f.attack): f for f in found}


def stolen(share: float) -> float:
    return (share - 0.3) / 0.5


class TestWorstCase:
    def test_of_each_seed_the_worst_key_counts(self) -> None:
        bench = Bench()
        for seed, shares in enumerate([(0.8, 0.3), (0.4, 0.6)]):
            for key, share in enumerate(shares):
                bench.pair("none", merge(0.3), seed=seed, key=key, role="naive")
                bench.pair("fit", merge(share), seed=seed, key=key)
        fit = rows(bench)["attack", "fit"]
        assert [(s.seed, s.key) for s in fit.per_seed] == [(0, 0), (1, 1)]
        assert [s.counted for s in fit.per_seed] == pytest.approx([1.0, stolen(0.6)])
        assert fit.counted.mean == pytest.approx((1.0 + stolen(0.6)) / 2)
        assert (fit.counted.seeds, fit.cells, fit.planned) == (2, 4, 4)

    def test_over_seeds_that_agree_it_is_no_narrower_than_each_of_them(self) -> None:
        bench, alone = Bench(), Bench()
        for seed in range(5):
            bench.pair("fit", merge(0.8), seed=seed)
        alone.pair("fit", merge(0.8))
        together, single = (rows(one)["attack", "fit"].theft for one in (bench, alone))
        assert (together.over, together.mean, single.mean) == ("seeds", 1.0, 1.0)
        assert together.high - together.low >= single.high - single.low > 0

    def test_it_may_be_another_attack_on_every_seed(self) -> None:
        bench = Bench()
        for seed, (fit, other) in enumerate([(0.8, 0.4), (0.4, 0.7), (0.8, 0.4)]):
            bench.pair("none", merge(0.3), seed=seed, role="naive")
            bench.pair("fit", merge(fit), seed=seed)
            bench.pair("other", merge(other), seed=seed)
        worst = rows(bench)["worst", ""]
        assert worst.by == {"fit": 2, "other": 1}
        assert (worst.attack, worst.theft.mean) == ("fit", pytest.approx((1.0 + stolen(0.7) + 1.0) / 3))
        assert worst.theft.over == "seeds, preliminary"

    def test_naive_is_the_worst_length_of_the_task_vector_and_belongs_to_the_worst_case(self) -> None:
        bench = Bench()
        bench.pair("none", merge(0.3), role="naive")
        bench.pair("none×2", merge(0.7), role="naive")
        bench.pair("fit", merge(0.5))
        found = rows(bench)
        assert (found["naive", ""].attack, found["naive", ""].theft.mean) == ("none×2", pytest.approx(stolen(0.7)))
        assert found["worst", ""].attack == "none×2"

    def test_who_guesses_a_key_belongs_to_it_and_who_has_no_victim_or_everything_does_not(self) -> None:
        bench = Bench()
        bench.pair("none", merge(0.3), role="naive")
        bench.pair("random-key", merge(0.6), role="guess")
        for attack, role in (("base", "trivial"), ("key-holder", "ceiling"), ("train-anew", "anew")):
            bench.pair(attack, merge(0.8), role=role)
        assert rows(bench)["worst", ""].attack == "random-key"

    def test_of_ceilings_the_least_counts(self) -> None:
        bench = Bench()
        for key, share in enumerate((0.8, 0.5)):
            bench.pair("key-holder", merge(share), key=key, role="ceiling")
        assert rows(bench)["attack", "key-holder"].counted.mean == pytest.approx(stolen(0.5))

    def test_what_takes_something_where_nothing_is_counts_for_nothing(self) -> None:
        bench = Bench()
        bench.pair("none", merge(0.3), role="naive")
        bench.pair("digger", merge(0.8))
        bench.pair("fit", merge(0.5))
        found = rows(bench, excluded=frozenset({"digger"}))
        assert found["worst", ""].attack == "fit"
        assert found["attack", "digger"].counted.mean == pytest.approx(1.0), "it is shown nevertheless"

    def test_so_does_a_merger_to_which_the_victim_adds_too_little(self) -> None:
        bench = Bench()
        bench.ground(merger="poor", without=merge(0.79, 0.8, 0.8))
        for merger in ("mean", "poor"):
            bench.pair("none", merge(0.3), role="naive", merger=merger)
            bench.pair("fit", merge(0.8 if merger == "poor" else 0.5), merger=merger)
        assert left_out(bench.table, bench.asked()) == ("poor",)
        found = aggregate.figures(bench.table, bench.asked(), bench.pairings, left_out=("poor",))
        (worst,) = (f for f in found if f.choice == "worst")
        assert (worst.merger, worst.counted.mean) == ("mean", pytest.approx(stolen(0.5)))


class TestSeen:
    def test_what_looks_best_is_chosen_whether_or_not_it_steals(self) -> None:
        bench = Bench()
        bench.pair("none", merge(0.3), role="naive")
        bench.pair("fit", merge(0.8, answers=[1, 0, 0, 0]))
        bench.pair("fake", merge(0.4, answers=[1, 1, 1, 1]))
        found = rows(bench)
        assert found["worst", ""].attack == "fit"
        assert (found["seen", ""].attack, found["seen", ""].theft.mean) == ("fake", pytest.approx(stolen(0.4)))

    def test_of_the_choices_under_several_keys_the_worst_counts(self) -> None:
        bench = Bench()
        for key, share in enumerate((0.4, 0.8)):
            bench.pair("none", merge(0.3), key=key, role="naive")
            bench.pair("fit", merge(share, answers=[1, 1, 1, 1]), key=key)
        assert rows(bench)["seen", ""].counted.mean == pytest.approx(1.0)


class TestMissing:
    def test_what_ran_under_one_key_of_two_counts_for_what_it_broke(self) -> None:
        bench = Bench()
        for key, made in enumerate((merge(0.8), FAILED)):
            bench.pair("none", merge(0.3), key=key, role="naive")
            bench.pair("fit", made, key=key)
        fit = rows(bench)["attack", "fit"]
        assert (fit.status, fit.cells, fit.planned, fit.reason) == ("ok", 1, 2, "it fell over")
        assert fit.counted.mean == pytest.approx(1.0)
        assert rows(bench)["worst", ""].attack == "fit"

    def test_what_never_ran_has_no_figure(self) -> None:
        bench = Bench()
        bench.pair("none", merge(0.3), role="naive")
        bench.pair("fit", FAILED)
        bench.pair("other", DECLINED)
        found = rows(bench)
        assert (found["attack", "fit"].status, found["attack", "fit"].theft) == ("error", None)
        other = found["attack", "other"]
        assert (other.status, other.inapplicable, other.cells) == ("skipped", 1, 0)

    def test_where_nothing_ran_there_is_no_choice(self) -> None:
        bench = Bench()
        bench.pair("none", FAILED, role="naive")
        assert {choice for choice, _ in rows(bench)} == {"attack"}


class TestData:
    def test_theft_and_what_is_counted_of_it_stand_side_by_side(self) -> None:
        bench = Bench()
        bench.pair("none", merge(0.3), role="naive")
        bench.pair("tune", merge(0.8), unused=merge(0.6))
        tune = rows(bench)["attack", "tune"]
        assert tune.theft.mean == pytest.approx(1.0)
        assert tune.counted.mean == tune.advantage.mean == pytest.approx(1 - stolen(0.6))
        assert rows(bench)["attack", "none"].advantage is None

    def test_more_that_labels_alone_buy_does_not_displace_what_the_victim_was_of_use_for(self) -> None:
        bench = Bench()
        bench.pair("none", merge(0.3), role="naive")
        bench.pair("fit", merge(0.6))
        bench.pair("tune", merge(0.8), unused=merge(0.7))
        worst = rows(bench)["worst", ""]
        assert (worst.attack, worst.advantage) == ("fit", None)


@pytest.mark.parametrize("seeds", [1, 3, 5])
def test_an_interval_is_never_narrower_than_those_of_its_seeds(seeds: int) -> None:
    bench = Bench()
    for seed in range(seeds):
        bench.pair("none", merge(0.3), seed=seed, role="naive")
        bench.pair("fit", merge(0.545), seed=seed)
    fit = rows(bench)["attack", "fit"]
    found: Interval = fit.counted
    assert found.mean == pytest.approx(0.49)
    # Test items of one seed are the only thing that equal seeds do not know.
    assert found.high - found.low >= 0.95 * sum(s.high - s.low for s in fit.per_seed) / seeds
    assert all(s.high > 0.5 for s in fit.per_seed)


def test_a_mean_is_the_same_in_whatever_order_pairings_end() -> None:
    values = [0.1, 0.2, 0.3, 0.7, -0.4]
    assert aggregate._mean(values) == aggregate._mean([None, *values[::-1]])
    assert np.mean(values) != np.mean(values[::-1]), "which theirs is not"
    assert aggregate._mean([None]) is None
