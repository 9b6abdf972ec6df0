"""What a plan comes to: who is paired with whom, under which names steps stand, and that none is laid out twice."""

from __future__ import annotations

from collections import Counter
from itertools import product
from pathlib import Path
from typing import Any

import pytest

from redteam.evaluation.design import Asked, Design
from redteam.evaluation.pairings import Pairing
from redteam.evaluation.steps import content_name
from tests.evaluation.layouts import laid, resolved

STRETCH = f"{Path(__file__).with_name('plugins.py')}@stretch"
MERGERS = ("task-arithmetic", "ties")


def plan(*attacks: str, **rest: Any) -> dict[str, Any]:
    return {"defenses": ("rotation",), "attacks": attacks, "mergers": MERGERS[:1], **rest}


def design(*attacks: str, **rest: Any) -> Design:
    return laid(resolved(plan(*attacks, **rest)))


def place(found: Design, defense: str = "rotation") -> Asked:
    """The only place of a defense."""
    (asked,) = (asked for asked in found.asked.values() if asked.defense.text == defense)
    return asked


def of(pairings: Any, attack: str) -> list[Pairing]:
    return [pairing for pairing in pairings if pairing.attack == attack]


def locks(found: Design, what: str) -> list[str]:
    """The steps that make a lock, by what progress lines call it."""
    return [s.name for s in found.steps.values() if s.kind == "lock" and s.label.startswith(f"lock {what} (")]


class TestPairings:
    def test_everything_is_paired_with_everything(self) -> None:
        found = design("procrustes", defenses=("rotation", "mergelock"), seeds=(0, 3), keys=2, mergers=MERGERS)
        for defense in ("rotation", "mergelock"):
            made = place(found, defense).pairings
            for attack in ("procrustes", "none", "base"):
                pairs = [(p.seed, p.key, p.merger) for p in of(made, attack)]
                assert Counter(pairs) == Counter(product((0, 3), (0, 1), MERGERS))
        assert set(found.grounds) == {("toy", seed, merger) for seed in (0, 3) for merger in MERGERS}

    def test_what_draws_on_no_key_has_one_and_nobody_guesses_it(self) -> None:
        found = design("procrustes", defenses=("rotation", "none"), keys=3)
        assert {p.key for p in place(found, "none").pairings} == {0}
        assert not of(place(found, "none").pairings, "random-key")
        assert {p.key for p in of(place(found).pairings, "random-key")} == {0, 1, 2}
        assert {p.role for p in of(place(found).pairings, "random-key")} == {"guess"}

    def test_whoever_has_everything_comes_later(self) -> None:
        asked = place(design("procrustes"))
        assert {p.attack for p in asked.later} == {"key-holder", "train-anew"}
        assert not {p.attack for p in asked.pairings} & {"key-holder", "train-anew"}

    def test_what_needs_more_than_is_granted_is_skipped_and_said(self) -> None:
        found = design("fine-tune", seeds=2)
        assert not of(place(found).pairings, "fine-tune")
        rows = [dict(row) for row in found.skipped]
        assert [(r["attack"], r["seed"], r["reason"]) for r in rows] == [
            ("fine-tune", seed, "needs more than the threat model grants") for seed in (0, 1)
        ]
        granted = design("fine-tune", threats=("few-shot:samples=8",))
        assert len(of(place(granted).pairings, "fine-tune")) == 1
        assert not granted.skipped

    def test_without_the_base_mergers_that_need_it_are_left_out(self) -> None:
        some = design("companion-anchor", mergers=("task-arithmetic", "linear"), threats=("no-base",))
        assert {p.merger for p in place(some).pairings} == {"linear"}
        none = design("companion-anchor", threats=("no-base",))
        assert not none.asked
        reasons = {dict(row)["attack"]: dict(row)["reason"] for row in none.skipped}
        assert reasons["companion-anchor"] == reasons["none"] == "no merger of the plan works without the base"

    def test_a_seed_over_again_is_left_out_and_said_and_an_unknown_one_is_not(self) -> None:
        made = resolved(plan("procrustes", seeds=(0, 1, 2, 3)))
        found = laid(made, {0: "one", 1: "other", 2: "one", 3: ""})
        assert set(place(found).layouts) == {p.seed for p in place(found).pairings} == {0, 1, 3}
        (told,) = found.same_seeds
        assert "Seed 2 of toy" in told
        assert "seed 0" in told


class TestCases:
    def test_members_wait_for_their_turn_in_the_order_of_the_gauntlet(self) -> None:
        asked = place(laid(resolved(plan(keys=2), ("procrustes", "hungarian"))))
        cases = [case for case in asked.cases if case.gauntlet == "ladder"]
        assert [(case.seed, case.key, case.merger) for case in cases] == [(0, key, MERGERS[0]) for key in (0, 1)]
        for case in cases:
            assert [member.attack for member in case.members] == ["procrustes", "hungarian"]
            assert {(m.seed, m.key, m.merger) for m in case.members} == {(case.seed, case.key, case.merger)}
        assert not {p.attack for p in asked.pairings} & {"procrustes", "hungarian"}
        assert {"procrustes", "hungarian"} <= set(asked.attacks)

    def test_members_that_are_not_granted_what_they_need_are_none(self) -> None:
        asked = place(laid(resolved(plan(), ("fine-tune", "hungarian"))))
        (case,) = (case for case in asked.cases if case.gauntlet)
        assert [member.attack for member in case.members] == ["hungarian"]

    @pytest.mark.parametrize(
        ("threat", "lengths"), [("weights-only", ["none", "none×1", "none×0.5", "none×2"]), ("no-base", ["none"])]
    )
    def test_task_vectors_have_other_lengths_where_there_is_a_base(self, threat: str, lengths: list[str]) -> None:
        asked = place(design(mergers=("linear",), threats=(threat,)))
        (case,) = asked.cases
        assert (case.gauntlet, [member.attack for member in case.members]) == ("", lengths)
        assert len({member.steps.merge for member in case.members}) == len(lengths)


class TestNames:
    def test_a_name_is_the_hash_of_what_a_step_depends_on(self) -> None:
        found = design("procrustes", "collusion", "average-releases", threats=("same-key", "two-releases"))
        for name, step in found.steps.items():
            assert name == step.name == content_name(step.kind, {"settings": step.settings, "inputs": step.inputs})

    def test_inputs_come_before_what_needs_them(self) -> None:
        found = design("procrustes", "collusion", "average-releases", threats=("same-key", "two-releases"))
        before: set[str] = set()
        for step in found.steps.values():
            assert before.issuperset(step.inputs.values()), step.label
            before.add(step.name)
        pairings = [p.steps for asked in found.asked.values() for p in (*asked.pairings, *asked.later)]
        assert before.issuperset(name for one in (*pairings, *found.grounds.values()) for name in one)

    def test_a_wider_plan_keeps_the_names_and_what_was_only_called_otherwise(self) -> None:
        narrow = design("procrustes")
        wide = design(
            "hungarian",
            "procrustes",
            defenses=("mergelock", "rotation"),
            seeds=(1, 0),
            keys=2,
            mergers=("ties", "task-arithmetic"),
            threats=("few-shot:samples=8", "weights-only"),
        )
        assert set(narrow.steps) < set(wide.steps)

    @pytest.mark.parametrize(("seed", "digest"), [(1, "weights"), (0, "edited weights")])
    def test_another_seed_or_scenario_is_another_name_for_everything(self, seed: int, digest: str) -> None:
        one = laid(resolved(plan("procrustes")), {0: "weights"})
        other = laid(resolved(plan("procrustes", seeds=(seed,))), {seed: digest})
        assert len(one.steps) == len(other.steps)
        assert not set(one.steps) & set(other.steps)

    def test_settings_rename_what_depends_on_them_and_nothing_else(self) -> None:
        one, other = design("procrustes"), design("procrustes:sites=[vo]")
        new = [other.steps[name] for name in other.steps if name not in one.steps]
        assert sorted(step.kind for step in new) == ["attack", "merge"]
        assert all("procrustes:sites=[vo]" in step.label for step in new)

    def test_another_key_is_another_lock(self) -> None:
        asked = place(design("procrustes", keys=2))
        first, second = of(asked.pairings, "procrustes")
        assert len({first.steps.lock, second.steps.lock}) == len({first.steps.merge, second.steps.merge}) == 2


class TestOnce:
    def test_a_product_over_again_adds_nothing(self) -> None:
        once = design("procrustes", keys=2)
        twice = design("procrustes", keys=2, also=[{"attacks": ["procrustes"]}])
        assert list(twice.steps) == list(once.steps)
        assert list(place(twice).pairings) == list(place(once).pairings)
        assert list(place(twice).cases) == list(place(once).cases)

    def test_a_product_beside_adds_what_is_new_to_the_same_place(self) -> None:
        both = place(design("procrustes", also=[{"attacks": ["hungarian"], "keys": 2}]))
        assert len(of(both.pairings, "none")) == 2
        assert [len(of(both.pairings, attack)) for attack in ("procrustes", "hungarian")] == [1, 2]

    def test_a_lock_is_one_step_whoever_attacks_it(self) -> None:
        found = design(
            "procrustes", "hungarian", keys=2, mergers=MERGERS, threats=("weights-only", "few-shot:samples=8")
        )
        assert len(locks(found, "rotation on the victim")) == 2
        assert len(locks(found, "unlocked victim")) == 1
        assert len({p.steps.lock for asked in found.asked.values() for p in asked.pairings}) == 2

    def test_what_labels_buy_anyway_is_computed_once_for_all_locks(self) -> None:
        found = design("fine-tune", defenses=("rotation", "mergelock"), keys=2, threats=("few-shot:samples=8",))
        pairings = [p for asked in found.asked.values() for p in of(asked.pairings, "fine-tune")]
        assert len(pairings) == 4
        assert len({p.steps.unused for p in pairings}) == 1
        assert all(p.data for p in pairings)

    def test_what_prepares_a_victim_runs_once_for_all_keys_and_is_what_counts(self) -> None:
        asked = place(found := design("procrustes", defenses=(f"{STRETCH}+mergelock",), keys=3), "stretch+mergelock")
        (prepared,) = locks(found, "stretch on the victim")
        pairings = of(asked.pairings, "procrustes")
        assert {found.steps[p.steps.lock].inputs["prepared"] for p in pairings} == {prepared}
        (reference,) = {p.steps.reference for p in pairings}
        assert found.steps[reference].inputs["victim"] == prepared
        assert {p.steps.reference for p in place(design("procrustes")).pairings} == {""}
