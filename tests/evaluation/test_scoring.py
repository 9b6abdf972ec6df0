"""Theft pays for what the victim adds, and for nothing else; the worst case is chosen at no bias."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from redteam.errors import PluginFault
from redteam.evaluation.baselines import Baselines, average
from redteam.evaluation.packing import Packed
from redteam.evaluation.steps import Merged
from tests.evaluation.merges import Bench, N, alone, baselines, coin, merge, right


def theft(victim: float, left: float = 0.7, right_: float = 0.7) -> float:
    return float(baselines().theft(merge(victim, left, right_))[0])


class TestTheft:
    def test_n_is_zero_at_chance_and_one_at_the_expert(self) -> None:
        scores = baselines().scores(merge(0.1, 0.9, 0.5))
        assert scores["victim"][0] == pytest.approx(0.0)
        assert scores["left"][0] == pytest.approx(1.0)
        assert scores["right"][0] == pytest.approx(0.5)

    @pytest.mark.parametrize(("victim", "stolen"), [(0.3, 0.0), (0.55, 0.5), (0.8, 1.0), (0.2, 0.0), (0.9, 1.0)])
    def test_it_runs_from_the_merge_without_the_victim_to_the_reference(self, victim: float, stolen: float) -> None:
        assert theft(victim) == pytest.approx(stolen)

    def test_throwing_the_victim_away_recovers_the_mean_and_steals_nothing(self) -> None:
        found = baselines()
        thrown_away, locked = merge(0.3, 0.8, 0.8), merge(0.1, 0.1, 0.1)
        recovery = found.recovery(found.scores(thrown_away), found.scores(locked))
        assert recovery is not None
        assert recovery[0] > 0.8
        assert found.theft(thrown_away)[0] == 0.0

    def test_what_the_companions_lose_is_charged_beyond_a_fiftieth_each(self) -> None:
        # 0.016 in accuracy is 0.02 in n; the victim adds 0.625 in n.
        assert theft(0.8, 0.7 - 0.015, 0.7 - 0.015) == pytest.approx(1.0)
        assert theft(0.8, 0.6, 0.7) == pytest.approx(1 - (0.1 / 0.8 - 0.02) / 0.625)
        assert theft(0.8, 0.6, 0.6) == pytest.approx(1 - 2 * (0.1 / 0.8 - 0.02) / 0.625)
        assert theft(0.8, 0.1, 0.1) == 0.0

    def test_one_companion_that_gains_does_not_pay_for_another_that_loses(self) -> None:
        assert theft(0.8, 0.6, 0.9) == pytest.approx(theft(0.8, 0.6, 0.7))

    def test_a_longer_task_vector_that_has_the_skill_is_not_worthless_because_of_a_hair(self) -> None:
        assert theft(0.85, 0.7 - 0.03, 0.7 - 0.03) > 0.9

    @settings(max_examples=200, deadline=None)
    @given(
        shares=st.tuples(*[st.integers(0, N)] * 3),
        task=st.integers(0, 2),
        more=st.sampled_from([-1, 1]),
    )
    def test_it_is_continuous(self, shares: tuple[int, int, int], task: int, more: int) -> None:
        """One item more or less, of any task, changes it by what one item is worth."""
        moved = list(shares)
        moved[task] = min(N, max(0, moved[task] + more))
        found = baselines()
        before, after = (float(found.theft(merge(*(count / N for count in one)))[0]) for one in (shares, moved))
        assert abs(after - before) <= found.theft_of_all / N + 1e-9

    @settings(max_examples=100, deadline=None)
    @given(shares=st.tuples(*[st.integers(0, N)] * 3), task=st.integers(0, 2))
    def test_more_of_any_skill_never_steals_less(self, shares: tuple[int, int, int], task: int) -> None:
        better = list(shares)
        better[task] = min(N, better[task] + 7)
        found = baselines()
        before, after = (float(found.theft(merge(*(count / N for count in one)))[0]) for one in (shares, better))
        assert after >= before - 1e-12

    def test_a_victim_that_adds_nothing_cannot_be_stolen_from(self) -> None:
        found = baselines(without=merge(0.8, 0.8, 0.8))
        assert found.theft(merge(0.9))[0] == 0.0
        assert found.theft_of_all == 0.0

    def test_recovery_is_undefined_where_the_lock_costs_nothing(self) -> None:
        found = baselines()
        assert found.recovery(found.scores(merge(0.5)), found.reference_scores) is None

    def test_identical_models_have_no_uncertainty_between_them(self) -> None:
        assert np.ptp(baselines().kept(right(0.9), right(0.9))) == 0.0

    def test_worth_is_counted_from_chance(self) -> None:
        assert baselines().kept(right(0.1), right(0.9), above=0.1)[0] == pytest.approx(0.0)
        assert baselines().kept(right(0.1), right(0.9))[0] == pytest.approx(1 / 9)


class TestCounted:
    def test_without_data_all_of_it_is(self) -> None:
        bench = Bench()
        pairing = bench.pair("fit", merge(0.55))
        assert bench.table.advantage(pairing) is None
        assert bench.table.counted(pairing)[0] == pytest.approx(0.5)

    def test_with_data_what_the_same_attack_takes_from_the_base_is_not(self) -> None:
        bench = Bench()
        pairing = bench.pair("tune", merge(0.8), unused=merge(0.55))
        assert bench.table.theft(pairing)[0] == pytest.approx(1.0)
        assert bench.table.counted(pairing)[0] == pytest.approx(0.5)

    def test_it_is_never_below_nothing(self) -> None:
        bench = Bench()
        pairing = bench.pair("tune", merge(0.4), unused=merge(0.8))
        assert bench.table.advantage(pairing)[0] == pytest.approx(-0.8)
        assert bench.table.counted(pairing)[0] == 0.0

    def test_what_failed_or_is_open_has_none(self) -> None:
        bench = Bench()
        failed = bench.pair("raises", {"status": "error", "reason": "it fell over"})
        open_ = bench.pair("late", None)
        for pairing in (failed, open_):
            assert bench.table.counted(pairing) is None
            assert not bench.table.judged(pairing)
        assert bench.table.status(failed) == ("error", "it fell over")
        assert (bench.table.ended(failed), bench.table.ended(open_)) == (True, False)


def half_right(which: int, share: float, other: float) -> Packed:
    """A share of one half of the items right, and another of the other half."""
    from redteam.evaluation.statistics import halves

    mine, rest = (np.flatnonzero(halves(N, "toy/0/victim")[index]) for index in (which, 1 - which))
    bits = np.zeros(N, dtype=bool)
    bits[mine[: round(share * len(mine))]] = True
    bits[rest[: round(other * len(rest))]] = True
    return Packed.of(bits)


class TestWorst:
    def test_of_one_pairing_it_is_that_pairings_own_figure(self) -> None:
        bench = Bench()
        pairing = bench.pair("fit", coin(np.random.default_rng(0), 0.6))
        found = bench.table.worst([pairing])
        assert found is not None
        assert found[0] == pairing
        assert np.array_equal(found[1], bench.table.counted(pairing))

    def test_what_is_best_on_both_halves_keeps_its_figure_whatever_else_was_tried(self) -> None:
        bench, draw = Bench(), np.random.default_rng(0)
        best = bench.pair("fit", coin(draw, 0.75))
        others = [bench.pair(f"weak {index}", coin(draw, 0.4)) for index in range(20)]
        found = bench.table.worst([*others, best])
        assert found is not None
        assert found[0] == best
        assert np.array_equal(found[1], bench.table.counted(best))

    def test_what_is_best_on_one_half_is_scored_on_the_other(self) -> None:
        bench = Bench()
        first = bench.pair("first", merge(half_right(0, 0.6, 0.4)))
        second = bench.pair("second", merge(half_right(1, 0.6, 0.4)))
        found = bench.table.worst([first, second])
        assert found is not None
        assert found[1][0] == pytest.approx((0.4 - 0.3) / 0.5)
        assert bench.table.counted(first)[0] == pytest.approx((0.5 - 0.3) / 0.5, abs=0.01)

    def test_what_surely_falls_is_the_figure_of_the_surest(self) -> None:
        bench = Bench()
        surely = bench.pair("surely", merge(half_right(0, 0.78, 0.76)))
        half = bench.pair("half", merge(half_right(1, 0.84, 0.68)))
        for tried in ([surely], [surely, half], [half, surely]):
            found = bench.table.worst(tried)
            assert found is not None
            assert found[0] == surely
            assert np.array_equal(found[1], bench.table.counted(surely))

    def test_the_order_in_which_they_were_tried_does_not_matter(self) -> None:
        bench, draw = Bench(), np.random.default_rng(3)
        tried = [bench.pair(str(index), coin(draw, 0.55)) for index in range(6)]
        forth, back = bench.table.worst(tried), bench.table.worst(tried[::-1])
        assert forth is not None
        assert back is not None
        assert np.array_equal(forth[1], back[1])

    def test_nothing_that_was_judged_is_none(self) -> None:
        bench = Bench()
        assert bench.table.worst([]) is None
        assert bench.table.worst([bench.pair("raises", {"status": "error", "reason": "it fell over"})]) is None

    @pytest.mark.parametrize("count", [2, 5])
    def test_choosing_costs_no_bias(self, count: int) -> None:
        """Of equal attacks its mean is theirs, within Monte-Carlo error; that of the best of them is not."""
        draw, share, trials = np.random.default_rng(7), 0.55, 150
        truth = (share - 0.3) / 0.5
        worst, best = [], []
        for _ in range(trials):
            bench = Bench()
            merges = [coin(draw, share) for _ in range(count)]
            found = bench.table.worst([bench.pair(str(index), made) for index, made in enumerate(merges)])
            assert found is not None
            worst.append(found[1][0])
            best.append((max(made.tasks["victim"].unpack().mean() for made in merges) - 0.3) / 0.5)
        error = np.std(worst, ddof=1) / trials**0.5
        assert abs(np.mean(worst) - truth) <= 3 * error
        assert np.mean(best) - truth > 5 * error, "so that a bias would be seen"

    def test_with_data_both_merges_are_halved(self) -> None:
        bench = Bench()
        first = bench.pair("first", merge(half_right(0, 0.8, 0.5)), unused=merge(half_right(0, 0.8, 0.3)))
        second = bench.pair("second", merge(half_right(0, 0.35, 0.35)), unused=merge(half_right(0, 0.3, 0.3)))
        found = bench.table.worst([first, second])
        assert found is not None
        # What the first one takes on its own half is what its labels alone buy there; it is best on the other half.
        assert found[1][0] == pytest.approx((0.0 + 0.1) / 2)


class TestFigureOfASeed:
    def test_its_interval_is_never_narrower_than_the_items_allow(self) -> None:
        bench = Bench()
        pairing = bench.pair("fit", merge(0.8))
        figure = bench.table.seed_figure([pairing])
        assert figure is not None
        assert figure.counted == 1.0
        assert figure.low < 1.0
        assert 0.5 < figure.sure < figure.low

    def test_half_is_surely_stolen_only_beyond_chance(self) -> None:
        bench, draw = Bench(), np.random.default_rng(1)
        barely = bench.table.seed_figure([bench.pair("barely", coin(draw, 0.56))])
        surely = bench.table.seed_figure([bench.pair("surely", coin(draw, 0.75))])
        assert barely is not None
        assert surely is not None
        assert barely.low < 0.5 < surely.low
        assert barely.sure < 0.5 < surely.sure


class TestSeen:
    def test_an_attacker_prefers_what_answers_as_the_protected_model_does(self) -> None:
        bench = Bench()
        near, far = (bench.pair(str(a), merge(0.5, answers=a)) for a in ([1, 1, 1, 0], [0, 0, 0, 0]))
        assert bench.table.seen(near) > bench.table.seen(far)

    def test_and_what_keeps_the_own_tasks(self) -> None:
        bench = Bench()
        kept, lost = (bench.pair(str(s), merge(0.5, s, s, answers=[1, 1, 1, 1])) for s in (0.8, 0.5))
        assert bench.table.seen(kept) > bench.table.seen(lost)

    def test_the_victims_own_data_play_no_part(self) -> None:
        bench = Bench()
        one, other = (bench.pair(str(s), merge(s, answers=[1, 1, 1, 1])) for s in (0.3, 0.8))
        assert bench.table.seen(one) == bench.table.seen(other)


def test_accuracy_of_a_half_counts_its_items_alone() -> None:
    packed = half_right(0, 1.0, 0.0)
    assert average(packed, "toy/0/victim", 0)[0] == 1.0
    assert average(packed, "toy/0/victim", 1)[0] == 0.0
    assert average(packed, "toy/0/victim")[0] == pytest.approx(0.5)


def as_numbers(made: Merged, scale: float = 1.0, shift: float = 0.0) -> Merged:
    """The same merge, each right answer counting `scale` more than a wrong one."""
    return replace(made, tasks={t: Packed.of(p.unpack() * scale + shift) for t, p in made.tasks.items()})


@pytest.mark.parametrize(("scale", "shift"), [(1.0, 0.0), (0.37, -2.5), (40.0, 3.0)])
def test_scores_that_are_numbers_are_read_as_accuracies_are(scale: float, shift: float) -> None:
    attacked = merge(mixed := Packed.of(np.random.default_rng(0).random(N) < 0.55), 0.66, 0.7)
    counted = baselines()
    record = alone()
    numbered = Baselines.of(
        "toy/0",
        replace(
            record,
            chance={t: scale * c + shift for t, c in record.chance.items()},
            experts={t: Packed.of(p.unpack() * scale + shift) for t, p in record.experts.items()},
        ),
        as_numbers(counted.without, scale, shift),
        as_numbers(counted.reference, scale, shift),
    )
    there = as_numbers(attacked, scale, shift)
    np.testing.assert_allclose(numbered.theft(there), counted.theft(attacked), atol=1e-5)
    np.testing.assert_allclose(numbered.net(there, 0), counted.net(attacked, 0), atol=1e-5)
    assert numbered.net_point(there, 1) == pytest.approx(counted.net_point(attacked, 1), abs=1e-5)
    assert numbered.theft_of_all == pytest.approx(counted.theft_of_all, rel=1e-5)
    assert mixed.n == N


def test_scores_survive_their_record_and_must_be_finite() -> None:
    numbers = np.random.default_rng(1).normal(size=77)
    np.testing.assert_array_equal(Packed.of(numbers).unpack(), numbers.astype(np.float32).astype(np.float64))
    for wrong in (np.array([1, 2]), np.array([1.0, np.nan])):
        with pytest.raises(PluginFault, match="finite"):
            Packed.of(wrong)
