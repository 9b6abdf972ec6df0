"""Every verdict has evidence that leads to it, and evidence that no longer does."""

from dataclasses import replace

import pytest

from redteam.evaluation.statistics import Interval
from redteam.evaluation.verdict import FLAGS, Candidate, Evidence, decide


def _around(mean: float, half: float = 0.05) -> Interval:
    return Interval(mean, max(0.0, mean - half), min(1.0, mean + half), 5, "seeds")


def _candidate(attack: str, theft: float, seen: float) -> Candidate:
    return Candidate(attack, "task-arithmetic", _around(theft), _around(theft), seen)


def _with_data(attack: str, theft: float, advantage: float, seen: float) -> Candidate:
    return Candidate(attack, "task-arithmetic", _around(theft), _around(advantage), seen, advantage=_around(advantage))


HELD = Evidence(
    gain=_around(0.4),
    failed=(),
    naive=_around(0.05),
    candidates=(_candidate("none", 0.05, 0.3), _candidate("fit", 0.1, 0.5)),
    reliable=frozenset({"fit"}),
    ceiling=True,
    targeted=frozenset({"fit"}),
    missing=(),
    fidelity=_around(0.999, 0.001),
)


def test_the_evidence_that_all_others_differ_from_holds() -> None:
    assert decide(HELD).word == "HOLDS-SO-FAR"
    assert decide(HELD).flags == ()


@pytest.mark.parametrize(
    ("change", "word"),
    [
        ({"failed": ("floor control failed",)}, "UNSCORABLE"),
        ({"gain": _around(0.08)}, "UNSCORABLE"),
        ({"gain": None}, "INVALID"),
        ({"naive": _around(0.6)}, "INEFFECTIVE"),
        ({"naive": _around(0.52)}, "HOLDS-SO-FAR"),
        ({"candidates": (_candidate("fit", 0.6, 0.5),)}, "BROKEN"),
        ({"candidates": (_candidate("fit", 0.52, 0.5),)}, "INCONCLUSIVE"),
        ({"ceiling": False}, "INVALID"),
        ({"ceiling": None}, "HOLDS-SO-FAR"),
        ({"reliable": frozenset()}, "INVALID"),
        ({"targeted": frozenset()}, "INCONCLUSIVE"),
        ({"missing": ("fit: ended after 3 s",)}, "INCONCLUSIVE"),
        ({"candidates": ()}, "INVALID"),
    ],
)
def test_one_change_of_the_evidence_changes_the_verdict(change: dict, word: str) -> None:
    assert decide(replace(HELD, **change)).word == word


def test_a_break_that_the_attacker_would_not_choose_does_not_break_but_keeps_it_from_holding() -> None:
    candidates = (_candidate("fit", 0.1, 0.9), _candidate("lucky", 0.9, 0.2))
    assert decide(replace(HELD, candidates=candidates)).word == "INCONCLUSIVE"


def test_a_break_stands_without_plants_or_ceiling() -> None:
    broken = replace(HELD, candidates=(_candidate("fit", 0.9, 0.5),), reliable=frozenset(), ceiling=False)
    assert decide(broken).word == "BROKEN"


def test_doubts_about_the_score_come_before_a_break() -> None:
    broken = replace(HELD, candidates=(_candidate("fit", 0.9, 0.5),), failed=("base steals 0.8",))
    assert decide(broken).word == "UNSCORABLE"


def test_flags_stand_beside_the_verdict() -> None:
    single = Interval(0.1, 0.05, 0.15, 1, "test items")
    evidence = replace(HELD, fidelity=_around(0.97, 0.01), candidates=(replace(HELD.candidates[1], theft=single),))
    assert decide(evidence).flags == ("COSTLY", "ONE-SEED")


def test_what_labels_alone_buy_is_not_stolen() -> None:
    candidates = (_candidate("fit", 0.1, 0.5), _with_data("tune", 0.95, 0.1, 0.9))
    assert decide(replace(HELD, candidates=candidates)).word == "HOLDS-SO-FAR"
    useful = (_candidate("fit", 0.1, 0.5), _with_data("tune", 0.95, 0.7, 0.9))
    broken = decide(replace(HELD, candidates=useful))
    assert (broken.word, broken.flags) == ("BROKEN", ("NEEDS-LABELS",))


def test_data_never_make_a_defense_safer() -> None:
    candidates = (_candidate("fit", 0.9, 0.5), _with_data("tune", 0.95, 0.1, 0.9))
    decision = decide(replace(HELD, candidates=candidates))
    assert (decision.word, decision.flags) == ("BROKEN", ())


def test_every_flag_that_can_be_raised_is_explained() -> None:
    evidence = replace(
        HELD,
        fidelity=_around(0.97, 0.01),
        candidates=(_candidate("fit", 0.1, 0.9), _candidate("lucky", 0.9, 0.2)),
        adaptive=False,
        unproven=frozenset({"fit"}),
        missing=("fit: ended after 3 s",),
    )
    raised = decide(evidence).flags
    assert raised == ("COSTLY", "UNCHOSEN-BREAK", "NO-ADAPTIVE-ATTACK", "UNPROVEN-ATTACKS", "PARTIAL")
    assert set(raised) | {"ONE-SEED", "PRELIMINARY", "NEEDS-LABELS", "NOT-REPRODUCED"} == set(FLAGS)


def test_an_effect_that_does_not_appear_here_is_not_reproduced_and_nothing_is_said_of_the_paper() -> None:
    open_door = replace(HELD, naive=_around(0.9), published=True)
    assert (decide(open_door).word, decide(open_door).flags) == ("INEFFECTIVE", ("NOT-REPRODUCED",))
    assert decide(replace(open_door, published=False)).flags == ()
    assert decide(replace(HELD, published=True)).flags == ()
    assert "says nothing about the paper" in FLAGS["NOT-REPRODUCED"].means


def test_of_a_gauntlet_the_verdict_names_the_members() -> None:
    ran = replace(_candidate("gauntlet-9", 0.9, 0.9), by={"fit": 4, "graft": 1})
    decision = decide(replace(HELD, candidates=(ran,)))
    assert decision.reason.startswith("gauntlet-9 (fit 4×, graft 1×) with task-arithmetic steals")
    assert ran.first == "fit"
