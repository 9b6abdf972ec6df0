"""Honest runs: the verdicts that are known beforehand, what is written, and what is computed again."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from redteam.errors import BadInput, BadPlan
from redteam.evaluation.results import Results
from redteam.key import Key

LOCKS = ("permutation", "rotation", "mergelock")
BREAKS = (("permutation", "hungarian"), ("rotation", "procrustes"), ("mergelock", "gauge-fit"))


@pytest.fixture(scope="module")
def twice(toys: Any, tmp_path_factory: pytest.TempPathFactory) -> tuple[Any, Any, Any]:
    """The small plan once, and how it went the second time."""
    out, again = tmp_path_factory.mktemp("resume"), toys.Counting()
    return toys.run(toys.small(), out), toys.run(toys.small(), out, observer=again), again


def known(once: Any, toys: Any) -> Any:
    return once("known", toys.plan((toys.named("open-door"), toys.named("fresh-victim")), ("gauge-fit",)))


class TestVerdicts:
    def test_no_defense_is_ineffective(self, honest: Any) -> None:
        assert honest.verdict("none").verdict == "INEFFECTIVE"
        assert honest.theft("none", "none") == 1.0

    @pytest.mark.parametrize("lock", LOCKS)
    def test_locks_stop_whoever_merges_without_attack(self, honest: Any, lock: str) -> None:
        assert honest.theft(lock, "none") <= 0.1
        assert honest.cell(lock, "none").scores["protection"] >= 0.9

    @pytest.mark.parametrize(("lock", "attack"), BREAKS)
    def test_locks_fall_to_what_was_made_for_them(self, honest: Any, lock: str, attack: str) -> None:
        assert honest.theft(lock, attack) >= 0.9
        assert honest.cell(lock, attack).scores["residual"] < 1
        assert honest.verdict(lock).verdict == "BROKEN"

    @pytest.mark.parametrize("attack", ["hungarian", "procrustes"])
    def test_smaller_groups_do_not_break_general_linear_locks(self, honest: Any, attack: str) -> None:
        assert honest.theft("mergelock", attack) < 0.5

    @pytest.mark.parametrize("lock", LOCKS)
    def test_the_base_and_a_random_key_steal_nothing_and_the_key_all(self, checked: Any, lock: str) -> None:
        assert checked.theft(lock, "base") <= 0.1
        assert checked.theft(lock, "random-key") <= 0.1
        assert checked.theft(lock, "key-holder") >= 0.95

    @pytest.mark.parametrize("lock", LOCKS)
    def test_a_task_vector_of_another_length_is_no_attack(self, honest: Any, lock: str) -> None:
        for length in ("0.5", "1", "2"):
            assert honest.cell(lock, f"none×{length}").role == "naive"
        naive = honest.figure(lock, "naive")
        assert naive.counted.mean >= honest.theft(lock, "none") - 0.05
        assert honest.verdict(lock).protection.mean == pytest.approx(1 - naive.theft.mean)

    def test_whoever_guesses_a_key_that_guards_nothing_breaks_the_lock(self, once: Any, toys: Any) -> None:
        found = once("unkeyed", toys.plan((toys.named("one-key"),), ())).verdict("one-key")
        assert found.verdict == "BROKEN", found.reason
        assert found.attack == "random-key"
        assert "its key guards nothing" in found.reason

    def test_an_open_door_is_ineffective_and_a_fresh_victim_never_broken(self, once: Any, toys: Any) -> None:
        done = known(once, toys)
        assert done.verdict("open-door").verdict == "INEFFECTIVE"
        assert done.verdict("fresh-victim").verdict not in ("BROKEN", "INEFFECTIVE", "HOLDS-SO-FAR")
        assert (
            max(c.scores["theft"] for c in done.results.cells if c.defense == "fresh-victim" and c.role != "anew")
            <= 0.1
        )


class TestShapes:
    @pytest.fixture(scope="class")
    @classmethod
    def reshaped(cls, once: Any, toys: Any) -> Any:
        return once("reshaped", toys.plan(("split-neurons",), ("gauge-fit", "shape-restore+gauge-fit"), controls="all"))

    def test_an_attack_that_is_not_for_such_shapes_is_skipped_and_nothing_is_missing_without_it(
        self, reshaped: Any
    ) -> None:
        cell = reshaped.cell("split-neurons", "gauge-fit")
        assert cell.status == "skipped"
        assert "has another shape" in cell.reason
        assert "PARTIAL" not in reshaped.verdict("split-neurons").flags
        assert reshaped.results.exit_code == 0
        assert not reshaped.controls("floor", "gauge-fit")

    def test_restoring_shapes_first_it_is_for_them(self, reshaped: Any) -> None:
        assert reshaped.cell("split-neurons", "shape-restore+gauge-fit").scores["theft"] >= 0.9
        assert reshaped.theft("split-neurons", "key-holder") >= 0.95


class TestControls:
    def test_all_pass(self, checked: Any) -> None:
        # 64 labels teach no toy: there an expert cannot be trained anew, only unlocked.
        failed = {(c.control, c.attack) for c in checked.results.controls if not c.passed}
        assert failed <= {("ceiling", "train-anew")}

    def test_every_claim_is_planted_alone_and_all_together(self, checked: Any) -> None:
        from redteam.anatomy import anatomy_of
        from redteam.plugins.registry import ATTACKS
        from redteam.testing.toys import toy_scenario

        for attack in ("graft", "hungarian", "procrustes", "gauge-fit"):
            # Where the architecture does not allow a lock, none is planted.
            legal = {site.kind: site.legal for site in anatomy_of(toy_scenario().base).places}
            claimed = ATTACKS.load(attack).spec.breaks
            claims = {(site, group.name) for site, group in claimed if group.name in legal.get(site, ())}
            planted = checked.controls("planted", attack)
            assert sorted((c.site, c.group) for c in planted if c.group) == sorted(claims)
            assert [c.site for c in planted if not c.group] == (["all claims at once"] if claims else [])
            assert {c.defense for c in planted} <= {""}

    def test_every_defense_has_its_own(self, checked: Any) -> None:
        kinds = {(c.control, c.defense) for c in checked.results.controls}
        assert {("trivial", lock) for lock in ("none", *LOCKS)} <= kinds
        assert {("floor", lock) for lock in ("none", *LOCKS)} <= kinds
        assert {("ceiling", lock) for lock in LOCKS} <= kinds
        assert {("weakened", lock) for lock in LOCKS} <= kinds
        assert {("extent", lock) for lock in LOCKS} <= kinds
        assert {("gain", ""), ("harmless", ""), ("gone", ""), ("planted", "")} <= kinds

    def test_a_break_rests_on_the_floor_of_what_broke_it_and_wants_nothing_else(self, honest: Any) -> None:
        for lock, attack in BREAKS:
            rests = [honest.results.controls[index] for index in honest.verdict(lock).rests_on]
            assert {(c.control, c.attack) for c in rests} == {("trivial", "base"), ("floor", attack), ("gone", attack)}
        kinds = {c.control for c in honest.results.controls}
        assert kinds == {"gain", "trivial", "floor", "gone"}

    def test_more_controls_change_no_verdict(self, honest: Any, checked: Any) -> None:
        for one, other in zip(honest.results.verdicts, checked.results.verdicts, strict=True):
            assert (one.verdict, one.reason, one.theft, one.flags) == (
                other.verdict,
                other.reason,
                other.theft,
                other.flags,
            )
        needed, every = (sum(found.results.computed.values()) for found in (honest, checked))
        assert needed < every / 2

    def test_where_nothing_broke_a_lock_everything_is_computed(self, once: Any, toys: Any) -> None:
        found = known(once, toys)
        here = {
            c.control for c in found.results.controls if c.attack == "gauge-fit" and c.defense in ("", "fresh-victim")
        }
        assert {"planted", "extent", "harmless", "floor", "gone"} <= here
        ceilings = {c.attack for c in found.results.controls if (c.control, c.defense) == ("ceiling", "fresh-victim")}
        assert ceilings == {"key-holder", "train-anew"}

    def test_a_weakened_variant_that_stops_no_merge_proves_nothing(self, once: Any, toys: Any) -> None:
        done = once("half-door", toys.plan((toys.named("half-door"),), (toys.named("sound"),), controls="all"))
        (weakened,) = done.controls("weakened", "sound")
        assert weakened.value >= weakened.limit
        assert not weakened.passed


class TestOutput:
    def test_results_are_read_back(self, honest: Any, toys: Any) -> None:
        read = Results.read(honest.folder)
        assert toys.numbers(read) == toys.numbers(honest.results)
        assert read.exit_code == 0
        assert json.loads((honest.folder / "results.json").read_text())["schema"] == 2

    def test_every_verdict_follows_from_what_is_written(self, honest: Any, checked: Any, once: Any, toys: Any) -> None:
        for found in (honest, checked, known(once, toys)):
            found.decide_anew()

    def test_verdicts_are_told_as_soon_as_they_are_known(self, twice: Any) -> None:
        first, _, again = twice
        assert [v.verdict for v in again.verdicts] == [v.verdict for v in first.results.verdicts]

    def test_they_hold_exactly_the_plans_cells(self, honest: Any) -> None:
        everywhere = {"none", "graft", "hungarian", "procrustes", "gauge-fit", "base", "imitation:steps=2"}
        locked = everywhere | {"random-key", "none×1", "none×0.5", "none×2"}
        expected = {("none", attack) for attack in everywhere}
        expected |= {(lock, attack) for lock in LOCKS for attack in locked}
        found = [(cell.defense, cell.attack) for cell in honest.results.cells]
        assert len(found) == len(set(found))
        assert set(found) == expected
        assert {cell.status for cell in honest.results.cells} == {"ok"}

    def test_nothing_secret_is_written(self, honest: Any) -> None:
        owner = Key.derive(seed=0, index=0, name="defender")
        tags = [f"0/{lock}" for lock in LOCKS]
        tags += [f"plant {g} at {s}" for g in ("permutation", "orthogonal", "general-linear") for s in ("qk", "vo")]
        secrets = [owner.secret, *(owner.child(tag).secret for tag in tags)]
        content = b"".join(file.read_bytes() for file in honest.folder.rglob("*") if file.is_file())
        assert honest.results.grounds[0].digest.encode() in content  # this search does find things
        for secret in secrets:
            assert secret not in content
            assert secret.hex().encode() not in content.lower()

    def test_checkpoints_are_dropped(self, honest: Any) -> None:
        assert list((honest.folder / "work").iterdir()) == []
        assert not [file for file in honest.folder.rglob("*") if file.suffix == ".safetensors"]

    def test_thresholds_are_fixed_beforehand(self, honest: Any) -> None:
        announced = json.loads((honest.folder / "plan.json").read_text())
        assert announced["thresholds_digest"] == honest.results.thresholds["digest"]


class TestResume:
    def test_the_same_run_computes_nothing(self, twice: Any, toys: Any) -> None:
        first, second, again = twice
        assert again.labels == []
        left_out = {"command": True, "environment": {"duration"}}
        assert "duration" in first.results.environment
        assert "duration" not in second.results.environment
        assert second.results.model_dump(exclude=left_out) == first.results.model_dump(exclude=left_out)

    def test_wider_computes_what_is_new_and_narrower_shows_what_is_asked(
        self, twice: Any, toys: Any, honest: Any
    ) -> None:
        first, _, _ = twice
        before = {json.loads(file.read_text())["label"] for file in (first.folder / "cells").iterdir()}
        count = toys.Counting()
        plan = toys.plan(("rotation",), ("procrustes", "hungarian"))
        wide = toys.run(plan, first.folder, observer=count)
        again = [label for label in count.labels if label in before]
        assert again, "the locks were dropped, and are needed for the new attack"
        assert all(label.startswith("lock ") for label in again)
        assert all("procrustes" not in label for label in count.labels)
        assert any("attack hungarian on rotation (" in label for label in count.labels)
        assert list((first.folder / "work").iterdir()) == []
        for attack in ("procrustes", "hungarian", "graft", "base", "random-key", "none", "none×2"):
            # What was rebuilt gives the numbers that were never interrupted.
            assert wide.cell("rotation", attack).scores == honest.cell("rotation", attack).scores
        narrow = toys.run(toys.small(), first.folder, observer=(silent := toys.Counting()))
        assert silent.labels == []
        assert toys.numbers(narrow.results) == toys.numbers(first.results)

    def test_a_changed_plugin_recomputes_its_own_cells(self, toys: Any, tmp_path: Path) -> None:
        source = (
            '"""Changes with every edit."""\n'
            "from redteam.plugins.contracts import attack\n\n\n"
            '@attack("NAME")\ndef made(view):\n    return view.protected\n'
        )
        files = {name: tmp_path / f"{name}.py" for name in ("mine", "other")}
        for name, file in files.items():
            file.write_text(source.replace("NAME", name))
        plan = toys.plan(("open-door",), tuple(toys.named(name, file) for name, file in files.items()))
        plan["defenses"] = (toys.named("open-door"),)
        first = toys.run(plan, tmp_path / "out")
        files["mine"].write_text(files["mine"].read_text() + "# edited\n")
        again = toys.Counting()
        second = toys.run(plan, tmp_path / "out", observer=again)
        computed = [label for label in again.labels if not label.startswith("lock ")]
        assert computed
        assert all("mine" in label for label in computed)
        assert toys.numbers(second.results) == toys.numbers(first.results)

    def test_a_lost_or_damaged_record_is_computed_again(self, twice: Any, toys: Any) -> None:
        first, _, _ = twice
        files = {json.loads(file.read_text())["label"]: file for file in (first.folder / "cells").iterdir()}
        lost, damaged = (files[f"{what} procrustes on rotation (toy, seed 0)"] for what in ("attack", "merge with"))
        lost.unlink()
        damaged.write_text(damaged.read_text()[:40])
        again = toys.Counting()
        second = toys.run(toys.small(), first.folder, observer=again)
        what = ("attack procrustes on rotation (toy, seed 0)", "merge with procrustes on rotation (toy, seed 0)")
        assert set(what) <= set(again.labels)
        assert (lost.is_file(), len(damaged.read_text()) > 40) == (True, True)
        assert toys.numbers(second.results) == toys.numbers(first.results)


class TestRefused:
    def test_two_plugins_of_one_name(self, toys: Any, tmp_path: Path) -> None:
        for name in ("a", "b"):
            (tmp_path / f"{name}.py").write_text(
                "from redteam.plugins.contracts import attack\n\n\n@attack('graft')\ndef graft(view):\n    return 1\n"
            )
        for attacks in (("a.py", "b.py"), ("a.py",)):
            plan = toys.plan(("none",), tuple(toys.named("graft", tmp_path / file) for file in attacks))
            with pytest.raises(BadPlan, match="Two different attacks are called 'graft'"):
                toys.run(plan, tmp_path / "out")
        assert not (tmp_path / "out").exists()

    def test_a_second_run_in_the_folder(self, toys: Any, tmp_path: Path) -> None:
        from redteam.evaluation.run import alone_in

        (tmp_path / "out").mkdir()
        with alone_in(tmp_path / "out"), pytest.raises(BadInput, match="Another run is writing"):
            toys.run(toys.small(), tmp_path / "out")
        assert list((tmp_path / "out" / "cells").iterdir()) == []
