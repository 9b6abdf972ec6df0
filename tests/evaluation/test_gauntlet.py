"""Gauntlets: members run in order on what is still locked, and what is spared changes no verdict towards safety."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from redteam.errors import BadPlan, UnknownName
from redteam.evaluation.gauntlet import Gauntlet
from redteam.evaluation.preview import preview
from redteam.plugins.registry import ATTACKS, MERGERS
from redteam.plugins.shipped import shipped, shipped_file

FIT = f"{Path(__file__).with_name('plugins.py')}@thorough"
MEMBERS = ("graft", "procrustes", FIT)
NAMES = ("graft", "procrustes", "thorough")


@pytest.fixture(autouse=True)
def ladder(ship: Callable[[str, str], Path]) -> Path:
    """A stranger's package that ships a gauntlet."""
    return ship("ladder-1", f"# Three rungs.\nattacks = {list(MEMBERS)}\n")


@pytest.fixture
def climbed(toys: Any, once: Any) -> Any:
    return once("ladder", toys.plan(("none", "rotation", "mergelock"), ("ladder-1",)))


def ran(found: Any, defense: str) -> set[str]:
    return {c.attack for c in found.results.cells if c.defense == defense and c.role == "recovery"}


class TestOrder:
    def test_an_open_case_goes_on_and_a_closed_one_does_not(self, climbed: Any) -> None:
        assert ran(climbed, "mergelock") == {"graft", "procrustes", "thorough"}
        assert ran(climbed, "rotation") == {"graft", "procrustes"}
        assert ran(climbed, "none") == {"graft"}  # which belongs to every evaluation

    def test_what_was_chosen_is_said_and_what_was_spared_counted(self, climbed: Any) -> None:
        assert climbed.figure("rotation", "worst").by == {"procrustes": 1}
        assert climbed.figure("mergelock", "worst").by == {"thorough": 1}
        assert climbed.figure("none", "worst").attack == "none"
        assert climbed.results.gauntlets == {"ladder-1": NAMES}
        attacks = {f.attack for f in climbed.results.figures}
        assert "ladder-1" not in attacks, "a gauntlet is no attack, but what says who runs"
        for defense, member in (("rotation", "procrustes"), ("mergelock", "thorough")):
            figure = climbed.figure(defense, "attack", member)
            assert (figure.cells, figure.planned, figure.spared) == (1, 1, 0)

    def test_verdicts_are_those_of_the_members(self, climbed: Any) -> None:
        assert climbed.verdict("none").verdict == "INEFFECTIVE"
        for lock, member in (("rotation", "procrustes"), ("mergelock", "thorough")):
            verdict = climbed.verdict(lock)
            assert (verdict.verdict, verdict.attack, verdict.by) == ("BROKEN", member, {member: 1})
            assert verdict.broke_first == member
            assert verdict.theft == climbed.figure(lock, "attack", member).theft

    def test_verdicts_follow_from_what_is_written(self, climbed: Any) -> None:
        climbed.decide_anew()

    def test_only_what_broke_a_lock_has_to_prove_itself(self, climbed: Any) -> None:
        floors = {(c.defense, c.attack) for c in climbed.results.controls if c.control == "floor"}
        assert floors == {("mergelock", "thorough"), ("rotation", "procrustes")}
        assert not [c for c in climbed.results.controls if c.control == "planted"]

    def test_where_all_controls_are_asked_for_members_prove_themselves_whether_they_ran_or_not(
        self, toys: Any, once: Any, climbed: Any
    ) -> None:
        found = once("ladder-checked", toys.plan(("rotation",), ("ladder-1",), controls="all"))
        assert ran(found, "rotation") == {"graft", "procrustes"}
        controls = {c.attack for c in found.results.controls if c.control == "planted"}
        assert {"procrustes", "thorough"} <= controls
        floors = {c.attack for c in found.results.controls if c.control == "floor"}
        assert floors == {"graft", "procrustes"}

    def test_a_lock_that_cannot_be_put_on_is_nobodys_turn(self, toys: Any, once: Any) -> None:
        lock = "general-linear:sites=[mlp]"  # an activation lies between
        found = once("no lock", toys.plan((lock,), ("ladder-1",)))
        assert ran(found, lock) == {"graft"}  # which belongs to every evaluation
        verdict = found.verdict(lock)
        assert verdict.verdict == "INVALID"
        told = r"nothing could be judged: lock general-linear:sites=\[mlp\] on the victim \(.*\): .*mlp/0.*[^.]"
        assert re.fullmatch(told, verdict.reason)


class TestTogetherWithOthers:
    def test_what_was_asked_for_runs_anyway_and_comes_to_the_same(self, toys: Any, once: Any, climbed: Any) -> None:
        both = once("both", toys.plan(("rotation",), ("ladder-1", FIT)))
        assert ran(both, "rotation") == {"graft", "procrustes", "thorough"}
        assert both.theft("rotation", "procrustes") == climbed.theft("rotation", "procrustes")
        assert both.verdict("rotation").verdict == climbed.verdict("rotation").verdict == "BROKEN"

    def test_members_with_data_run_only_where_data_are_granted(self, toys: Any, ladder: Path, tmp_path: Path) -> None:
        ladder.write_text('attacks = ["graft", "fine-tune:steps=2"]\n')
        plan = toys.plan(("mergelock",), ("ladder-1",), threats=("weights-only", "few-shot:samples=8"))
        found = toys.run(plan, tmp_path / "run")
        tuned = [c for c in found.results.cells if c.attack == "fine-tune:steps=2"]
        assert [c.threat for c in tuned] == ["few-shot:samples=8"]
        first, second = (v for v in found.results.verdicts)
        assert second.counted is not None
        assert first.counted is not None
        assert second.counted.mean >= first.counted.mean

    def test_again_computes_nothing_and_says_the_same(self, toys: Any, climbed: Any) -> None:
        watch = toys.Counting()
        again = toys.run(climbed.results.plan, climbed.folder, observer=watch)
        assert watch.labels == []
        assert toys.numbers(again.results) == toys.numbers(climbed.results)

    def test_workers_change_nothing(self, toys: Any, climbed: Any, tmp_path: Path) -> None:
        assert toys.numbers(toys.run(climbed.results.plan, tmp_path / "two", workers=2).results) == toys.numbers(
            climbed.results
        )

    def test_a_lock_is_made_once_for_all_rounds(self, toys: Any, tmp_path: Path) -> None:
        watch = toys.Counting()
        toys.run(toys.plan(("mergelock",), ("ladder-1",)), tmp_path / "run", observer=watch)
        locks = [label for label in watch.labels if label.startswith("lock mergelock on the victim")]
        assert len(locks) == 1

    def test_a_preview_says_how_much_more_it_may_become(self, toys: Any, tmp_path: Path) -> None:
        shown = preview(toys.plan(("mergelock",), ("ladder-1",)), out=tmp_path / "none")
        alone = preview(toys.plan(("mergelock",), ()), out=tmp_path / "none")
        assert sum(shown.further.values()) > sum(alone.further.values()) > 0


class TestFailures:
    def test_a_member_that_fails_leaves_the_case_open_and_a_hole_in_the_evidence(
        self, toys: Any, ladder: Path, tmp_path: Path
    ) -> None:
        ladder.write_text(f'attacks = ["graft", "{toys.named("raises")}"]\n')
        found = toys.run(toys.plan(("mergelock",), ("ladder-1",)), tmp_path / "run")
        assert "PARTIAL" in found.verdict("mergelock").flags
        assert found.results.exit_code == 2

    def test_a_lock_that_fails_is_not_tried_again_in_every_round(self, toys: Any, tmp_path: Path) -> None:
        watch = toys.Counting()
        plan = toys.plan((toys.named("refuses"),), ("ladder-1",))
        found = toys.run(plan, tmp_path / "run", observer=watch)
        assert sum(label.startswith("lock refuses on the victim") for label in watch.labels) == 1
        assert found.verdict("refuses").verdict == "INVALID"

    @pytest.mark.parametrize("member", ["idle", "one-head-left", "bias-forgotten"])
    def test_members_that_undo_nothing_are_no_evidence_that_anything_holds(
        self, toys: Any, ladder: Path, tmp_path: Path, member: str
    ) -> None:
        ladder.write_text(f'attacks = ["{toys.named(member)}"]\n')
        found = toys.run(toys.plan(("mergelock",), ("ladder-1",)), tmp_path / "run")
        assert found.verdict("mergelock").verdict in ("INVALID", "INCONCLUSIVE")
        assert "UNPROVEN-ATTACKS" in found.verdict("mergelock").flags
        found.decide_anew()

    @pytest.mark.parametrize("text", ["attacks = []", "attacks = [3]", 'attack = ["graft"]', "attacks = graft"])
    def test_a_file_that_is_no_gauntlet(self, ladder: Path, text: str) -> None:
        ladder.write_text(text)
        with pytest.raises(BadPlan, match="ladder-1"):
            Gauntlet.read("ladder-1")

    def test_names_that_nobody_ships(self) -> None:
        with pytest.raises(UnknownName, match="did you mean 'ladder-1'"):
            Gauntlet.read("ladder-2")


class TestShipped:
    def test_members_are_installed_and_attacks_take_no_settings(self) -> None:
        for one in shipped("gauntlet"):
            if one.package == "merge-redteam":
                gauntlet = Gauntlet.read(one.name)
                if gauntlet.kind == "mergers":
                    assert all(MERGERS.load(text).spec.name in MERGERS.names for text in gauntlet.members)
                    continue
                for text in gauntlet.members:
                    assert ":" not in text
                    for name in text.split("+"):
                        assert ATTACKS.load(name).spec.role == "recovery"

    def test_a_gauntlet_has_a_comment_that_lists_show(self) -> None:
        assert shipped_file("gauntlet", "gauntlet-1").read_text().startswith("# ")


class TestPrepared:
    """A chain that trains the victim before it locks it is measured against what the training made."""

    @pytest.fixture
    def chained(self, toys: Any, once: Any) -> Any:
        chains = (f"{toys.named('stretch')}+mergelock", toys.named("stretch"), "mergelock")
        return once("stretched", toys.plan(chains, (FIT,), keys=2, controls="all"))

    def test_the_residual_is_counted_from_the_prepared_victim(self, chained: Any) -> None:
        cells = {c.defense: c for c in chained.results.cells if c.attack == "key-holder" and c.key == 0}
        assert cells["stretch+mergelock"].scores["residual"] < 1e-4
        assert cells["stretch+mergelock"].scores["theft"] == 1.0

    def test_it_is_prepared_once_whatever_the_key(self, toys: Any, tmp_path: Path) -> None:
        watch = toys.Counting()
        chain = f"{toys.named('stretch')}+mergelock"
        toys.run(toys.plan((chain,), (FIT,), keys=2), tmp_path / "run", observer=watch)
        made = [label for label in watch.labels if label.startswith("lock stretch on the victim")]
        assert len(made) == 1

    def test_the_preparation_alone_protects_nothing_and_the_chain_falls_as_the_lock_does(self, chained: Any) -> None:
        assert chained.verdict("stretch").protection.low < 0.5
        assert chained.verdict("stretch+mergelock").verdict == "BROKEN"
        assert chained.verdict("mergelock").verdict == "BROKEN"
