"""Every verdict has evidence that leads to it, and evidence that no longer does."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any, get_args

import pytest

from redteam.evaluation.flags import FLAGS
from redteam.evaluation.results import Control
from redteam.evaluation.verdict import Decision, Evidence, Word, decide
from tests.evaluation.rows import OF_AN_ATTACK, adversary, around, choices, control, evidence, figure, passing

FIT = figure("fit", 0.1)
BREAK = figure("fit", 0.9)


def held(*figures: Any, **rest: Any) -> Evidence:
    """A lock at which an attack that was made for it has failed, although everything shows that it could not but break
    a weaker one: HOLDS-SO-FAR."""
    return evidence(*(figures or (FIT,)), **rest)


def failed(kind: Any, attack: str = "fit", **rest: Any) -> tuple[Control, ...]:
    return passing(["fit"], but=[control(kind, attack, passed=False, **rest)])


def test_the_evidence_that_all_others_differ_from_holds() -> None:
    decision = decide(held())
    assert (decision.word, decision.flags, decision.wanted) == ("HOLDS-SO-FAR", (), ())
    assert "fit (by elsewhere) breaks the weakened variant" in decision.reason


WORDS: dict[str, tuple[Evidence, Word]] = {
    "the base in the victim's place steals": (held(controls=failed("trivial", "base")), "UNSCORABLE"),
    "the victim adds too little": (held(gains={"a": around(0.08)}, left_out=("a",)), "UNSCORABLE"),
    "only mergers that give way to one model gain": (
        held(
            gains={"a": around(0.01), "b": around(0.6)},
            copied={"a": around(0.0), "b": around(0.9)},
            left_out=("a", "b"),
        ),
        "UNSCORABLE",
    ),
    "one merger of two adds too little": (
        held(gains={"a": around(0.08), "task-arithmetic": around(0.4)}, left_out=("a",)),
        "HOLDS-SO-FAR",
    ),
    "nothing was judged": (held(choose=False), "INVALID"),
    "no attack is needed": (held(naive=0.6), "INEFFECTIVE"),
    "whether an attack is needed is open": (held(naive=0.52), "INCONCLUSIVE"),
    "surely stolen": (held(BREAK), "BROKEN"),
    "neither way": (held(figure("fit", 0.52)), "INCONCLUSIVE"),
    "one seed of five falls": (held(figure("fit", (0.0, 0.0, 0.0, 0.0, 0.6))), "BROKEN"),
    "four of five fall": (held(figure("fit", (1.0, 1.0, 1.0, 1.0, 0.0))), "BROKEN"),
    "one seed may have fallen": (held(figure("fit", (0.1, 0.1, 0.1, 0.1, 0.48))), "INCONCLUSIVE"),
    "the key's holder gets nothing": (held(controls=failed("ceiling", "key-holder")), "INVALID"),
    "training anew is worth nothing": (
        held(controls=failed("ceiling", "train-anew"), ceilings=("train-anew",)),
        "INVALID",
    ),
    "the protected model is worth nothing": (held(worth=around(0.1)), "INVALID"),
    "the protected model may be worth something": (held(worth=around(0.48)), "HOLDS-SO-FAR"),
    "plants do not come off": (held(controls=failed("planted")), "INVALID"),
    "not all sites of the lock at once": (held(controls=failed("extent")), "INVALID"),
    "they come off in part": (held(controls=failed("planted", partial=True)), "INCONCLUSIVE"),
    "the extent comes off in part": (held(controls=failed("extent", partial=True)), "INCONCLUSIVE"),
    "it harms unlocked models": (held(controls=failed("harmless")), "INVALID"),
    "it steals from a fresh victim": (held(controls=failed("floor")), "INVALID"),
    "it steals what is gone": (held(controls=failed("gone")), "INVALID"),
    "the weakened variant stands": (held(controls=failed("weakened")), "INCONCLUSIVE"),
    "nobody was made for it": (held(adversaries=()), "INCONCLUSIVE"),
    "who was made for it did not run everywhere": (held(adversaries=(adversary(ran=False),)), "INCONCLUSIVE"),
    "who was made for it claims a part of it": (held(adversaries=(adversary(covers=False),)), "INCONCLUSIVE"),
    "what was planted is weaker than the lock": (held(adversaries=(adversary(as_strong=False),)), "INCONCLUSIVE"),
    "the weakened variant is smaller, not weaker": (held(adversaries=(adversary(same_extent=False),)), "INCONCLUSIVE"),
    "not everything ran": (held(missing=("other: ended after 3 s",)), "INCONCLUSIVE"),
}


@pytest.mark.parametrize("name", WORDS)
def test_one_change_of_the_evidence_changes_the_verdict(name: str) -> None:
    given, word = WORDS[name]
    decision = decide(given)
    assert decision.word == word, decision.reason


def test_every_word_has_evidence() -> None:
    assert {word for _, word in WORDS.values()} == set(get_args(Word))


def test_an_attack_that_claims_no_kind_of_lock_proves_itself_on_the_weakened_variant() -> None:
    rows = [c for c in passing(["fit"]) if c.control not in ("planted", "extent")]
    assert decide(held(controls=rows)).word == "HOLDS-SO-FAR"
    assert decide(held(controls=[c for c in rows if c.control != "weakened"])).word == "INVALID"


class TestBreaks:
    def test_stand_without_plants_harmless_weakened_or_ceiling(self) -> None:
        for kind in ("planted", "extent", "harmless", "weakened"):
            assert decide(held(BREAK, controls=failed(kind))).word == "BROKEN"
        assert decide(held(BREAK, controls=failed("ceiling", "key-holder"), worth=around(0.1))).word == "BROKEN"

    def test_rest_on_the_grounds_and_on_their_own_floor_and_want_nothing_else(self) -> None:
        nothing = held(BREAK, figure("graft", 0.1), controls=(), tried=())
        wanted = {("trivial", "base"), ("floor", "fit"), ("gone", "fit")}
        assert set(decide(nothing).wanted) == wanted
        rests = decide(held(BREAK))
        assert {held(BREAK).controls[index][1].control for index in rests.rests_on} == {"trivial", "floor", "gone"}

    def test_doubts_about_the_score_come_first(self) -> None:
        assert decide(held(BREAK, controls=failed("trivial", "base"))).word == "UNSCORABLE"

    def test_a_floor_that_fails_throws_out_that_attack_and_no_other(self) -> None:
        other = figure("other", 0.95)
        rows = passing(["fit", "other"], but=[control("floor", "fit", passed=False)])
        # As the engine makes them, the choices leave out what counts for nothing.
        given = replace(
            held(BREAK, other, controls=rows),
            figures=(*choices([figure("none", 0.05, role="naive"), other]), BREAK, other),
        )
        decision = decide(given)
        assert decision.word == "BROKEN"
        assert decision.reason.startswith("other with")

    def test_a_control_under_which_an_attack_fails_like_any_program_leaves_it_to_the_other(self) -> None:
        stumbled = control("floor", "fit", passed=False, status="error")
        assert decide(held(BREAK, controls=passing(["fit"], but=[stumbled]))).word == "BROKEN"
        takes = control("gone", "fit", passed=False)
        both = control("gone", "fit", passed=False, status="error")
        for other in (takes, both):
            rows = passing(["fit"], but=[stumbled, other])
            assert held(BREAK, controls=rows).excluded == {"fit"}

    def test_of_an_attack_that_is_out_are_no_evidence(self) -> None:
        rows = passing(["fit", "other"], but=[control("floor", "fit", passed=False)])
        fine = figure("other", 0.1)
        given = replace(
            held(BREAK, fine, controls=rows),
            figures=(*choices([figure("none", 0.05, role="naive"), fine]), BREAK, fine),
        )
        assert decide(given).word == "INCONCLUSIVE", "who was made for it is the one that is out"

    def test_that_are_sure_of_one_attack_stand_whatever_the_worst_case_over_several_says(self) -> None:
        given = held(BREAK, figure("lucky", 0.55))
        figures = tuple(figure("lucky", 0.52, choice="worst") if f.choice == "worst" else f for f in given.figures)
        decision = decide(replace(given, figures=figures))
        assert (decision.word, decision.fallen) == ("BROKEN", 5)

    def test_by_a_guessed_key_say_that_the_key_guards_nothing(self) -> None:
        guess = figure("random-key", 0.9, role="guess")
        decision = decide(held(FIT, guess))
        assert decision.word == "BROKEN"
        assert "its key guards nothing" in decision.reason

    def test_say_on_how_many_seeds(self) -> None:
        some = decide(held(figure("fit", (0.9, 0.9, 0.0, 0.0, 0.0))))
        assert (some.fallen, "SOMETIMES" in some.flags) == (2, True)
        assert "falls on 2 of 5 seeds" in some.reason
        every = decide(held(BREAK))
        assert (every.fallen, "SOMETIMES" in every.flags) == (5, False)

    def test_the_sentence_speaks_of_the_figure_beside_it(self) -> None:
        decision = decide(held(figure("fit", (1.0, 0.2, 0.2, 0.2, 0.2))))
        assert "steals 0.36 [" in decision.reason
        assert "neither" not in decision.reason


class TestData:
    """Of what an attack with data takes, that counts which the same data would not have bought from the base."""

    def test_what_labels_alone_buy_is_not_stolen(self) -> None:
        tune = figure("tune", 0.1, advantage=0.1, theft=around(0.95))
        decision = decide(held(FIT, tune))
        assert decision.word == "HOLDS-SO-FAR"

    def test_what_the_victim_was_of_use_for_is(self) -> None:
        tune = figure("tune", 0.7, advantage=0.7, theft=around(0.95))
        decision = decide(held(FIT, tune))
        assert (decision.word, decision.flags) == ("BROKEN", ("NEEDS-LABELS",))
        assert "of which the victim was of use for 0.70" in decision.reason

    def test_data_never_make_a_defense_safer(self) -> None:
        tune = figure("tune", 0.1, advantage=0.1, theft=around(0.95))
        decision = decide(held(BREAK, tune))
        assert (decision.word, decision.flags) == ("BROKEN", ())

    def test_labels_that_take_more_of_what_has_fallen_without_them_are_not_needed(self) -> None:
        tune = figure("tune", 0.97, advantage=0.97)
        decision = decide(held(BREAK, tune))
        assert (decision.word, decision.flags) == ("BROKEN", ())
        assert decision.reason.startswith("tune")

    def test_who_uses_data_has_no_floor(self) -> None:
        tune = figure("tune", 0.7, advantage=0.7)
        assert ("floor", "tune") not in decide(held(tune, controls=(), tried=())).wanted


class TestSafety:
    """A safe verdict rests on everything."""

    def test_what_was_not_computed_is_wanted(self) -> None:
        wanted = set(decide(held(controls=(), tried=())).wanted)
        assert wanted == {("trivial", "base"), ("ceiling", "key-holder"), *((kind, "fit") for kind in OF_AN_ATTACK)}

    @pytest.mark.parametrize("open_", ["HOLDS-SO-FAR", "INCONCLUSIVE", "INVALID"])
    def test_open_verdicts_rest_on_all_controls_of_all_attacks(self, open_: str) -> None:
        change = {"INCONCLUSIVE": {"adversaries": ()}, "INVALID": {"worth": around(0.1)}}.get(open_, {})
        given = held(FIT, figure("other", 0.2), **change)
        decision = decide(given)
        assert decision.word == open_
        assert len(decision.rests_on) == len(given.controls)
        for index in decision.rests_on:
            kind, attack = given.controls[index][1].control, given.controls[index][1].attack
            tried = tuple(one for one in given.subject.tried if one != (kind, attack))
            without = replace(given, subject=given.subject.model_copy(update={"tried": tried}))
            assert (kind, attack) in decide(without).wanted

    def test_a_failure_of_every_other_attack_is_no_evidence_either_but_stops_nothing(self) -> None:
        rows = passing(["fit", "idle"], but=[control("planted", "idle", passed=False)])
        decision = decide(held(FIT, figure("idle", 0.0), controls=rows))
        assert decision.word == "HOLDS-SO-FAR"
        assert decision.flags == ("UNPROVEN-ATTACKS",)

    def test_one_seed_over_half_is_enough_not_to_hold(self) -> None:
        for seeds in (5, 20):
            thefts = [0.0] * (seeds - 1) + [0.47]
            decision = decide(held(figure("fit", thefts)))
            assert decision.word == "INCONCLUSIVE"
            assert f"on seed {seeds - 1}: 0.47 [0.42, 0.52]" in decision.reason


RAISED: dict[str, Evidence] = {
    "COSTLY": held(fidelity={"float32": around(0.97, 0.01)}),
    "NOT-EXACT": held(change=0.3),
    "ONE-SEED": held(figure("fit", (0.1,))),
    "PRELIMINARY": held(figure("fit", (0.1, 0.1))),
    "SOMETIMES": held(figure("fit", (0.9, 0.0, 0.0, 0.0, 0.0))),
    "NEEDS-LABELS": held(FIT, figure("tune", 0.7, advantage=0.7)),
    "UNCHOSEN-BREAK": held(figure("other", 0.1), BREAK, seen="other"),
    "NOT-REPRODUCED": held(naive=0.9, published=True),
    "SELF-ATTACKED": held(adversaries=(adversary(own=True),)),
    "NO-ADAPTIVE-ATTACK": held(adversaries=()),
    "UNPROVEN-ATTACKS": held(controls=failed("planted")),
    "PARTIAL": held(missing=("other: ended after 3 s",)),
}
"""Flag → evidence that raises it, alone."""


class TestFlags:
    @pytest.mark.parametrize("flag", FLAGS)
    def test_each_can_be_raised_alone(self, flag: str) -> None:
        assert decide(RAISED[flag]).flags == (flag,)

    def test_none_is_raised_that_is_not_explained(self) -> None:
        assert set(RAISED) == set(FLAGS)
        for flag in FLAGS.values():
            assert flag.raised_if
            assert flag.means
            assert flag.do

    @pytest.mark.parametrize(
        "change",
        [
            lambda e: replace(e, subject=e.subject.model_copy(update={"adversaries": ()})),
            lambda e: replace(e, subject=e.subject.model_copy(update={"missing": ("other: ended after 3 s",)})),
            lambda e: replace(e, controls=tuple(enumerate(failed("planted")))),
            lambda e: replace(e, controls=tuple(enumerate(failed("harmless")))),
        ],
    )
    def test_what_does_not_change_how_a_break_is_read_is_not_said_beside_it(
        self, change: Callable[[Evidence], Evidence]
    ) -> None:
        decision: Decision = decide(change(held(BREAK)))
        assert (decision.word, decision.flags) == ("BROKEN", ())

    def test_partial_plants_are_told_apart_from_those_that_stay_on(self) -> None:
        assert "UNPROVEN-ATTACKS" in decide(held(controls=failed("planted"))).flags
        assert "UNPROVEN-ATTACKS" not in decide(held(controls=failed("planted", partial=True))).flags

    def test_a_costly_lock_is_one_that_surely_is(self) -> None:
        assert decide(held(fidelity={"float32": around(0.98, 0.01)})).flags == ()
        rounded = held(fidelity={"float32": around(0.999, 0.0005), "float16": around(0.9, 0.01)})
        assert decide(rounded).flags == (), "it is released in float32"

    def test_what_says_nothing_of_exactness_is_not_inexact(self) -> None:
        assert decide(held(exact=False, change=0.3)).flags == ()

    def test_whose_attack_it_is_matters_only_where_nobody_elses_counts(self) -> None:
        both = (adversary(own=True), adversary("other"))
        assert decide(held(FIT, figure("other", 0.1), adversaries=both)).flags == ()

    def test_an_effect_that_does_not_appear_is_said_of_published_defenses_alone(self) -> None:
        assert decide(held(naive=0.9)).flags == ()
        assert decide(held(published=True)).flags == ()
        assert "says nothing about the paper" in FLAGS["NOT-REPRODUCED"].means


def test_answers_alone_are_no_evidence_about_weights() -> None:
    """Under a threat model without weights nobody merges without an attack."""
    base = held(figure("imitation", 0.3))
    unseen = replace(base, figures=tuple(f for f in base.figures if f.role != "naive"))
    decision = decide(unseen)
    assert decision.word == "INCONCLUSIVE"
    assert "its answers alone give away 0.30" in decision.reason


def test_a_gain_that_does_not_count_is_not_called_too_little() -> None:
    gains, copied = {"a": around(0.01), "b": around(0.6)}, {"a": around(0.0), "b": around(0.9)}
    reason = decide(held(gains=gains, copied=copied, left_out=("a", "b"))).reason
    assert "b gains 0.60" in reason
    assert "have 0.90" in reason
    assert "too little to the merge" not in reason
