"""Gauntlets of mergers: later ones merge what is still locked, and none of them makes a lock look safer."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from redteam.errors import BadPlan
from redteam.evaluation.gauntlet import Gauntlet
from redteam.evaluation.preview import preview

FAULTS = Path(__file__).with_name("faults") / "mergers.py"
WHOLE, USELESS, TWO, WORDS = (
    f"{FAULTS}@{name}" for name in ("first-only", "ignores-experts", "takes-two", "words-summed")
)
HALF = "task-arithmetic:coefficient=0.6"
TURNS = (HALF, USELESS, TWO, "linear", WHOLE, WORDS, "ties")
APART = f"{Path(__file__).with_name('toy.py')}@apart"


@pytest.fixture(autouse=True)
def turns(ship: Callable[[str, str], Path]) -> Path:
    """A stranger's package that ships a gauntlet of mergers."""
    return ship("turns-1", f"# Seven mergers.\nmergers = {list(TURNS)}\n")


@pytest.fixture
def turned(toys: Any, once: Any) -> Any:
    plan = toys.plan(("none", "rotation", "mergelock"), ("procrustes",), mergers=("turns-1",), scenarios=(APART,))
    return once("turns", plan)


def merged(found: Any, defense: str) -> set[str]:
    return {c.merger for c in found.results.cells if c.defense == defense and c.role == "naive"}


def row(found: Any, defense: str, merger: str) -> Any:
    (one,) = (r for r in found.results.by_merger if (r.defense, r.merger) == (defense, merger))
    return one


class TestTurns:
    def test_what_has_fallen_is_merged_no_further(self, turned: Any) -> None:
        assert merged(turned, "none") == merged(turned, "rotation") == {HALF}
        tried = {HALF, "ignores-experts", "takes-two", "linear", "first-only", "words-summed"}
        assert merged(turned, "mergelock") == tried

    def test_a_merger_that_walks_around_a_lock_decides(self, turned: Any) -> None:
        verdict = turned.verdict("mergelock")
        assert (verdict.verdict, verdict.attack, verdict.merger) == ("INEFFECTIVE", "none", "words-summed")
        alone = row(turned, "mergelock", HALF)
        assert alone.worst.mean < 0.5, "the first merger alone would have let it stand"
        assert row(turned, "mergelock", "words-summed").naive.mean > 0.9

    def test_one_that_only_copies_the_victim_breaks_nothing(self, turned: Any) -> None:
        copied = row(turned, "mergelock", "first-only")
        assert copied.naive.mean > 0.9, "the locked model as it is has the victim's whole skill"
        assert copied.gain.mean > 0.5
        assert not copied.telling
        (told,) = [sentence for sentence in turned.results.untested if "first-only (" in sentence]
        assert told.startswith("Mergers left out on")
        assert "keeps so little of the companions" in told

    def test_attacks_follow_only_where_the_merger_can_tell_something(self, turned: Any) -> None:
        attacked = {c.merger for c in turned.results.cells if c.defense == "mergelock" and c.attack == "procrustes"}
        assert attacked == {HALF, "linear"}

    def test_every_merger_has_its_row_and_says_why_it_has_no_figure(self, turned: Any) -> None:
        for defense in ("none", "rotation", "mergelock"):
            rows = [r for r in turned.results.by_merger if r.defense == defense]
            assert [r.merger for r in rows] == [text.rpartition("@")[2] for text in TURNS]
        assert not row(turned, "mergelock", "ignores-experts").telling
        assert "exactly 2 experts" in row(turned, "mergelock", "takes-two").reason
        assert row(turned, "mergelock", "ties").reason == "the lock fell before its turn"
        assert row(turned, "none", "linear").worst is None

    def test_members_are_written_down(self, turned: Any) -> None:
        assert turned.results.merger_gauntlets == {"turns-1": tuple(text.rpartition("@")[2] for text in TURNS)}
        assert not turned.results.gauntlets
        assert turned.results.exit_code == 0

    def test_verdicts_follow_from_what_is_written(self, turned: Any) -> None:
        turned.decide_anew()

    def test_a_merger_that_had_no_turn_has_no_control(self, turned: Any) -> None:
        told = [c.explanation for c in turned.results.controls if c.control == "gain"]
        assert not [text for text in told if "ties" in text]
        assert [text for text in told if "words-summed" in text]

    def test_workers_change_nothing(self, toys: Any, turned: Any, tmp_path: Path) -> None:
        again = toys.run(turned.results.plan, tmp_path / "two", workers=2)
        assert toys.numbers(again.results) == toys.numbers(turned.results)

    def test_it_comes_to_what_listing_the_mergers_comes_to(self, toys: Any, once: Any, turned: Any) -> None:
        mergers = (HALF, "linear", WORDS)
        listed = once("listed", toys.plan(("mergelock",), ("procrustes",), mergers=mergers, scenarios=(APART,)))
        for merger in (HALF, "linear", "words-summed"):
            one, other = row(listed, "mergelock", merger), row(turned, "mergelock", merger)
            assert one.naive == other.naive
        assert listed.verdict("mergelock").theft == turned.verdict("mergelock").theft


class TestOfOneKind:
    def test_a_gauntlet_of_mergers_is_no_attack(self, toys: Any, tmp_path: Path) -> None:
        with pytest.raises(BadPlan, match="'turns-1' holds mergers; name it among the mergers of the plan"):
            toys.run(toys.plan(("none",), ("turns-1",)), tmp_path / "run")
        with pytest.raises(BadPlan, match="'gauntlet-1' holds attacks; name it among the attacks of the plan"):
            toys.run(toys.plan(("none",), (), mergers=("gauntlet-1",)), tmp_path / "run")

    @pytest.mark.parametrize("text", ["mergers = []", 'mergers = ["ties"]\nattacks = ["graft"]', "mergers = 3"])
    def test_a_file_that_is_none(self, turns: Path, text: str) -> None:
        turns.write_text(text)
        with pytest.raises(BadPlan, match="must hold 'attacks' or 'mergers'"):
            Gauntlet.read("turns-1")


def test_the_first_that_needs_no_base_is_the_first_where_the_base_is_withheld(toys: Any, tmp_path: Path) -> None:
    plan = toys.plan(("none",), (), mergers=("turns-1",), threats=("no-base",))
    found = toys.run(plan, tmp_path / "run")
    assert {c.merger for c in found.results.cells if c.merger} == {"linear"}


def test_a_preview_counts_later_mergers_among_what_may_be_needed(toys: Any, tmp_path: Path) -> None:
    plan = toys.plan(("mergelock",), ("procrustes",))
    alone = preview({**plan, "mergers": (HALF,)}, out=tmp_path / "none")
    turning = preview({**plan, "mergers": ("turns-1",)}, out=tmp_path / "none")
    assert turning.computed == alone.computed
    assert turning.further["merge"] > alone.further["merge"]


def test_a_merger_of_two_serves_a_scenario_with_one_companion(toys: Any, tmp_path: Path) -> None:
    pair = f"{Path(__file__).with_name('toy.py')}@pair"
    found = toys.run({**toys.plan(("none",), (), mergers=("slerp",)), "scenarios": (pair,)}, tmp_path / "run")
    assert found.theft("none", "none") == 1.0
    (ground,) = found.results.grounds
    assert ground.gain > 0.05
    assert ground.without["left"] == pytest.approx(1.0), "without the victim there is the companion as it is"
