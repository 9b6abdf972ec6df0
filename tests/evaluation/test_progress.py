"""What a place asks for next, and when it stops: in turns, each once what it waits for has ended."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import pytest

from redteam.evaluation.pairings import Pairing
from redteam.evaluation.steps import Outcome
from tests.evaluation.layouts import Watched

LENGTHS = {"none×1", "none×0.5", "none×2"}
LADDER = ("procrustes", "hungarian")
OF_AN_ATTACK = {"floor", "gone", "harmless", "planted", "extent"}


def place(*attacks: str, thefts: dict[str, float] | None = None, controls: str = "needed", **rest: Any) -> Watched:
    return Watched({"defenses": ("mergelock",), "attacks": attacks, "controls": controls}, thefts, **rest)


def attacks(pairings: Iterable[Pairing]) -> set[str]:
    return {pairing.attack for pairing in pairings if pairing.control is None}


def controls(pairings: Iterable[Pairing]) -> set[tuple[str, str]]:
    return {(pairing.control, pairing.attack) for pairing in pairings if pairing.control is not None}


class TestTurns:
    def test_what_the_plan_lists_comes_first_and_at_once(self) -> None:
        found = place("hungarian", ladder=("procrustes",))
        first = found.more()
        assert first == list(found.asked.pairings)
        assert attacks(first) == {"none", "hungarian", "graft", "base", "random-key"}

    def test_nothing_follows_while_the_merge_without_attack_is_open(self) -> None:
        found = place("hungarian", ladder=LADDER)
        first = found.more()
        assert found.more() == []
        found.end(pairing for pairing in first if pairing.role != "naive")
        assert found.more() == []

    def test_lengths_and_the_first_member_follow_it_whatever_else_is_open(self) -> None:
        found = place("graft", ladder=LADDER)
        found.end(pairing for pairing in found.more() if pairing.role == "naive")
        turn, why = found.progress.more(found.table, idle=False)
        assert attacks(turn) == {*LENGTHS, "procrustes"}
        assert why == "mergelock is still locked: no attack, procrustes"

    @pytest.mark.parametrize(("theft", "after"), [(0.0, {"hungarian"}), (0.8, {"hungarian"}), (0.95, set())])
    def test_the_next_member_follows_one_that_has_left_the_case_open(self, theft: float, after: set[str]) -> None:
        found = place(thefts={"procrustes": theft}, ladder=LADDER)
        found.end(found.more())
        turn = found.more()
        found.end(pairing for pairing in turn if pairing.role == "naive")
        assert found.more() == [], "the first member is still running"
        found.end(turn)
        assert attacks(found.more()) == after

    def test_nobody_follows_where_merging_without_attack_takes_all(self) -> None:
        found = place(thefts={"none": 1.0}, ladder=LADDER)
        found.end(found.more())
        assert found.more() == []
        assert found.progress.decision.word == "INEFFECTIVE"

    def test_a_case_is_one_lock_under_one_seed_and_key(self) -> None:
        plan = {"defenses": ("mergelock",), "attacks": (), "seeds": 2, "keys": 2}
        found = Watched(plan, ladder=LADDER)
        found.end(pairing for pairing in found.more() if (pairing.seed, pairing.key) == (1, 0))
        turn = found.more()
        assert {(pairing.seed, pairing.key) for pairing in turn} == {(1, 0)}
        assert attacks(turn) == {*LENGTHS, "procrustes"}

    def test_a_member_that_fails_leaves_the_case_open(self) -> None:
        found = place(thefts={"procrustes": 1.0}, ladder=LADDER)
        found.end(found.more())
        turn = found.more()
        (failing,) = (pairing for pairing in turn if pairing.attack == "procrustes")
        found.outcomes[failing.steps.recovered] = Outcome("error", reason="it does not converge")
        found.end(turn)
        assert attacks(found.more()) == {"hungarian"}


class TestControls:
    def test_a_break_wants_those_of_what_broke_it(self) -> None:
        found = place("hungarian", "procrustes", thefts={"hungarian": 1.0})
        *_, before, last = found.to_the_end()
        assert attacks(before) == LENGTHS
        assert (attacks(last), controls(last)) == (set(), {("floor", "hungarian"), ("gone", "hungarian")})
        assert found.progress.decision.word == "BROKEN"

    def test_where_nothing_broke_all_are_wanted_and_whoever_has_everything_runs(self) -> None:
        found = place("hungarian", thefts={"hungarian": 0.3})
        *_, last = found.to_the_end()
        assert attacks(last) == {"key-holder", "train-anew"}
        assert {kind for kind, attack in controls(last) if attack == "hungarian"} == OF_AN_ATTACK
        assert {attack for _, attack in controls(last)} == {"hungarian", "graft"}
        assert {pairing.attack for pairing in found.progress.run} >= {"key-holder", "train-anew"}, "they have figures"

    def test_they_are_asked_for_when_everything_else_has_ended(self) -> None:
        found = place("hungarian", thefts={"hungarian": 1.0})
        found.end(found.more())
        lengths = found.more()
        assert found.more() == []
        assert found.progress.decision is None
        found.end(lengths)
        assert controls(found.more())

    def test_where_all_are_asked_for_attacks_that_were_spared_prove_themselves_too(self) -> None:
        found = place(thefts={"procrustes": 1.0}, controls="all", ladder=LADDER)
        first, *_, last = found.to_the_end()
        assert {"key-holder", "train-anew"} <= attacks(first)
        assert "hungarian" not in {pairing.attack for pairing in found.progress.run}
        kinds = {who: {kind for kind, attack in controls(last) if attack == who} for who in LADDER}
        assert kinds == {"procrustes": OF_AN_ATTACK, "hungarian": {"planted", "harmless", "gone"}}

    def test_who_takes_something_where_nothing_is_closes_no_case(self) -> None:
        found = place(thefts={"procrustes": 1.0, "hungarian": 1.0}, floors={"procrustes": 1.0}, ladder=LADDER)
        turns = found.to_the_end()
        floors = next(i for i, turn in enumerate(turns) if ("floor", "procrustes") in controls(turn))
        assert not any("hungarian" in attacks(turn) for turn in turns[: floors + 1])
        assert attacks(turns[floors + 1]) == {"hungarian"}
        assert controls(turns[floors + 2]) == {("floor", "hungarian"), ("gone", "hungarian")}
        assert found.progress.decision.word == "BROKEN"

    @pytest.mark.parametrize("shown", [True, False])
    def test_planted_locks_are_merged_where_the_weights_do_not_show_that_they_are_off(self, shown: bool) -> None:
        turns = place("hungarian", shown=shown).to_the_end()
        planted = [(turn, p) for turn in turns for p in turn if p.control in ("planted", "extent")]
        alone = {(p.control, p.key, p.site, p.group) for _, p in planted if not p.steps.merge}
        merged = {(p.control, p.key, p.site, p.group) for _, p in planted if p.steps.merge}
        assert alone
        assert merged == (set() if shown else alone)


class TestEnd:
    @pytest.mark.parametrize("everything", ["needed", "all"])
    @pytest.mark.parametrize(
        ("thefts", "floors", "word"),
        [
            ({}, {}, "INCONCLUSIVE"),
            ({"none": 1.0}, {}, "INEFFECTIVE"),
            ({"procrustes": 1.0}, {}, "BROKEN"),
            ({"hungarian": 0.8}, {"procrustes": 1.0}, "BROKEN"),
            ({"base": 1.0}, {}, "UNSCORABLE"),
        ],
    )
    def test_everything_is_asked_for_once_until_the_verdict_wants_no_more(
        self, thefts: dict[str, float], floors: dict[str, float], word: str, everything: str
    ) -> None:
        found = place("hungarian", thefts=thefts, floors=floors, controls=everything, ladder=LADDER, shown=False)
        asked = [pairing for turn in found.to_the_end() for pairing in turn]
        assert len(asked) == len(set(asked))
        assert set(asked) == {pairing for pairing in found.progress.wanted if pairing.role != "interface"}
        assert (found.progress.decision.word, found.progress.decision.wanted) == (word, ())
        assert found.more() == found.more() == []
