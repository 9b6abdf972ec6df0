"""Controls read the pairings that they have made: what passes, what fails, and what is no row at all."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from redteam.evaluation.controls.base import over_by_chance, row
from redteam.evaluation.controls.nothing_to_steal import Floor, Gone, Harmless, Trivial
from redteam.evaluation.controls.planted import Extent, Planted
from redteam.evaluation.controls.reachable import Ceiling, Weakened
from redteam.evaluation.controls.sheet import CHECKS, Sheet
from redteam.evaluation.results import Control
from redteam.evaluation.steps import Cost, Locked, Recovered
from tests.evaluation.merges import Bench, coin, merge


def read(check: Any, bench: Bench) -> Control:
    found = row(check, bench.table, bench.pairings)
    assert found is not None
    return found


class TestNothingToSteal:
    @pytest.mark.parametrize("check", [Floor(), Trivial()])
    @pytest.mark.parametrize(("share", "passed"), [(0.3, True), (0.34, True), (0.36, False), (0.8, False)])
    def test_is_held_to_the_mean(self, check: Any, share: float, passed: bool) -> None:
        bench = Bench()
        bench.pair("fit", merge(share), control=check.kind)
        found = read(check, bench)
        assert (found.passed, found.status) == (passed, "ok")
        assert found.p is not None

    def test_seeds_count_together_and_of_each_the_worst(self) -> None:
        bench = Bench()
        for seed, share in enumerate((0.3, 0.3, 0.38)):
            bench.pair("fit", merge(share), seed=seed, control="floor")
        assert read(Floor(), bench).value == pytest.approx(0.16 / 3)
        assert read(Floor(), bench).passed

    def test_chance_is_corrected_for_how_many_there_are(self) -> None:
        """One of many floors that is over the limit by chance throws nobody out; one that is surely over does."""
        draw = np.random.default_rng(4)
        # One floor just over the limit, and another far over it, beside twenty that are not.
        sheets = []
        for share in (0.358, 0.6):
            bench, sheet = Bench(), Sheet(None, {})  # type: ignore[arg-type]
            for index in range(20):
                sheet.pairings["floor", f"fit {index}"] = (
                    bench.pair(f"fit {index}", coin(draw, 0.3), control="floor"),
                )
            sheet.pairings["floor", "over"] = (bench.pair("over", merge(share), control="floor"),)
            sheet.complete.update(sheet.pairings)
            sheets.append({c.attack: c for c in sheet.rows(bench.table)})
        near, far = (rows["over"] for rows in sheets)
        assert near.value > near.limit
        assert near.passed, near.explanation
        assert not far.passed
        assert all(c.passed for rows in sheets for c in rows.values() if c.attack != "over")

    def test_the_p_value_is_the_share_of_resamples_under_the_limit(self) -> None:
        vector = np.concatenate([[0.3], np.linspace(0, 1, 99)])
        assert over_by_chance([vector], 0.5) == pytest.approx((1 + np.sum(vector[1:] <= 0.5)) / 100)

    def test_whoever_takes_half_of_what_is_gone_has_seen_it(self) -> None:
        for share, passed in ((0.3, True), (0.5, True), (0.6, False)):
            bench = Bench()
            bench.pair("digger", merge(share), control="gone")
            assert read(Gone(), bench).passed is passed

    @pytest.mark.parametrize(("left", "passed"), [(0.7, True), (0.68, True), (0.4, False)])
    def test_an_attack_must_not_harm_what_nobody_locked(self, left: float, passed: bool) -> None:
        bench = Bench()
        bench.pair("fit", merge(0.8, left), control="harmless")
        assert read(Harmless(), bench).passed is passed


class TestReachable:
    @pytest.mark.parametrize(
        ("share", "naive", "passed"), [(0.8, 0.3, True), (0.5, 0.3, False), (0.56, 0.3, False), (0.8, 0.8, False)]
    )
    def test_a_weakened_variant_surely_falls_and_stops_who_merges_without_attack(
        self, share: float, naive: float, passed: bool
    ) -> None:
        bench = Bench()
        bench.pair("fit", merge(share), naive=merge(naive), control="weakened")
        assert read(Weakened(), bench).passed is passed

    @pytest.mark.parametrize(
        ("role", "share", "passed"),
        [("ceiling", 0.8, True), ("ceiling", 0.77, False), ("anew", 0.77, True), ("anew", 0.7, False)],
    )
    def test_the_keys_holder_must_get_more_than_who_trains_anew(self, role: str, share: float, passed: bool) -> None:
        bench = Bench()
        bench.pair(role, merge(share), role=role)
        assert read(Ceiling(), bench).passed is passed

    def test_the_worst_key_counts(self) -> None:
        bench = Bench()
        for key, share in enumerate((0.8, 0.4)):
            bench.pair("key-holder", merge(share), key=key, role="ceiling")
        assert not read(Ceiling(), bench).passed


def plant(
    bench: Bench, share: float, *, cost: float | None = 1.0, change: float | None = 0.0, key: int = 0, **rest: Any
) -> None:
    """A planted lock that costs three times as much as none, and what an attack makes of it; the lock alone nets
    nothing."""
    pairing = bench.pair("fit", merge(share), naive=merge(0.3), key=key, control="planted", site="qk", **rest)
    steps = replace(pairing.steps, twin=f"twin {key}", lock=f"plant {key}")
    bench.pairings[-1] = replace(pairing, steps=steps)
    bench.put(steps.lock, Locked("digest", changed=["w"], planted=["qk"], tied_cost={"qk": 3.0}))
    costs = {} if cost is None else {"qk": cost}
    bench.put(steps.twin, Recovered("digest", None, {"qk": 1.0}, 0.0, Cost(1.0)))
    bench.put(steps.recovered, Recovered("digest", None, costs, change, Cost(1.0)))


class TestPlanted:
    @pytest.mark.parametrize(
        ("made", "passed", "partial"),
        [
            ({"share": 0.8, "cost": 1.0}, True, False),
            ({"share": 0.8, "cost": 1.01}, True, False),
            ({"share": 0.8, "cost": 1.2}, False, True),
            ({"share": 0.3, "cost": 1.2}, False, False),
            ({"share": 0.8, "cost": None}, False, True),
            ({"share": 0.3, "cost": 0.5, "change": 0.5}, False, False),  # closer than any, and the victim thrown away
        ],
    )
    def test_comes_off_where_the_weights_are_as_close_as_without_it_and_the_function_is_kept(
        self, made: dict[str, Any], passed: bool, partial: bool
    ) -> None:
        bench = Bench()
        plant(bench, **made)
        found = read(Planted(), bench)
        assert (found.passed, found.partial) == (passed, partial), found.explanation

    def test_the_worst_key_decides(self) -> None:
        bench = Bench()
        plant(bench, 0.8, key=0)
        plant(bench, 0.3, cost=3.0, key=1)
        found = read(Extent(), bench)
        assert (found.passed, found.partial) == (False, False)

    def test_an_attack_that_declines_what_it_claims_has_not_undone_it(self) -> None:
        bench = Bench()
        bench.pair(
            "fit", {"status": "skipped", "reason": "two kinds are locked", "inapplicable": True}, control="extent"
        )
        for check in (Planted(), Extent(), Weakened()):
            found = read(check, bench)
            assert not found.passed
            assert "two kinds are locked" in found.explanation

    def test_where_no_such_lock_can_be_there_is_no_row(self) -> None:
        bench = Bench()
        pairing = bench.pair(
            "fit", {"status": "skipped", "reason": "no such site", "inapplicable": True}, control="planted"
        )
        bench.put(pairing.steps.lock, None, status="skipped", reason="no such site", inapplicable=True)
        assert row(Planted(), bench.table, bench.pairings) is None


def test_what_failed_has_not_passed() -> None:
    for check in CHECKS.values():
        bench = Bench()
        bench.pair("fit", {"status": "error", "reason": "it fell over"}, control=check.kind)
        found = read(check, bench)
        assert (found.passed, found.status, found.explanation) == (False, "error", "it fell over")


def test_what_is_for_other_shapes_is_no_row_where_nothing_is_claimed() -> None:
    for check in (Floor(), Gone(), Harmless()):
        bench = Bench()
        bench.pair(
            "fit", {"status": "skipped", "reason": "not for such shapes", "inapplicable": True}, control=check.kind
        )
        assert row(check, bench.table, bench.pairings) is None


def test_controls_are_read_once_all_their_pairings_have_ended() -> None:
    bench, sheet = Bench(), Sheet(None, {})  # type: ignore[arg-type]
    sheet.pairings["floor", "fit"] = (bench.pair("fit", merge(0.3)), bench.pair("fit", None, seed=1))
    assert sheet.tried(bench.table) == ()
    assert sheet.rows(bench.table) == ()


def test_nothing_to_control_counts_as_tried() -> None:
    bench, sheet = Bench(), Sheet(None, {})  # type: ignore[arg-type]
    sheet.pairings["weakened", "fit"] = ()
    sheet.complete.add(("weakened", "fit"))
    assert sheet.tried(bench.table) == (("weakened", "fit"),)
    assert sheet.rows(bench.table) == ()
