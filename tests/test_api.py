"""From Python: frames of results, what results look like, and plugins called by hand on checkpoints."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

import redteam
from redteam.errors import BadInput, ThreatModelViolation, UnknownName
from redteam.evaluation import run as evaluation
from redteam.evaluation.frames import TABLES
from redteam.evaluation.results import Results, Verdict
from redteam.events import Observer, Observers
from redteam.plugins.registry import ATTACKS, DEFENSES, MERGERS, SCENARIOS

TOY = Path(__file__).parent / "evaluation" / "toy.py"


PLAN: dict[str, Any] = {
    "scenarios": [f"{TOY}@toy"],
    "defenses": ["rotation", "none"],
    "attacks": ["procrustes"],
}


class Recorder(Observer):
    """Remembers what it was told, in order."""

    def __init__(self) -> None:
        self.told: list[tuple[str, Any]] = []

    def started(self, plan: Any, folder: Path) -> None:
        self.told.append(("started", folder))

    def preparing(self, scenario: str, seed: int) -> None:
        self.told.append(("preparing", seed))

    def planned(self, added: int, total: int, cached: int, why: str) -> None:
        self.told.append(("planned", (added, total, why)))

    def settled(self, label: str, status: str, reason: str, done: int, total: int) -> None:
        self.told.append(("settled", (done, total)))

    def decided(self, verdict: Verdict) -> None:
        self.told.append(("decided", (verdict.defense, verdict.verdict)))

    def finished(self, results: Results | None) -> None:
        self.told.append(("finished", results))


@pytest.fixture(scope="module")
def observed(tmp_path_factory: pytest.TempPathFactory) -> tuple[Results, Path, Recorder, Recorder]:
    first, second, out = Recorder(), Recorder(), tmp_path_factory.mktemp("api")
    return redteam.run(PLAN, out=out, workers=0, observer=Observers(first, second)), out, first, second


@pytest.fixture(scope="module")
def results(observed: tuple[Results, Path, Recorder, Recorder]) -> Results:
    return observed[0]


class TestObservers:
    def test_all_are_told_everything_from_beginning_to_end(
        self, observed: tuple[Results, Path, Recorder, Recorder]
    ) -> None:
        results, out, first, second = observed
        assert first.told == second.told
        assert [kind for kind, _ in first.told[:3]] == ["started", "preparing", "planned"]
        assert first.told[0][1] == out
        assert {kind for kind, _ in first.told[3:-1]} == {"planned", "settled", "decided"}
        planned = [what for kind, what in first.told if kind == "planned"]
        assert planned[0][0] == planned[0][1], "at first all that is planned is new"
        assert all(why for *_, why in planned[1:] if _[0]), "further steps come with a reason"
        settled = [what for kind, what in first.told if kind == "settled"]
        assert [done for done, _ in settled] == list(range(1, len(settled) + 1))
        assert settled[-1] == (planned[-1][1], planned[-1][1])
        decided = [what for kind, what in first.told if kind == "decided"]
        assert sorted(decided) == sorted((one.defense, one.verdict) for one in results.verdicts)
        assert first.told[-1] == ("finished", results)

    def test_a_run_that_fails_is_over_as_well(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        def fails(*_: Any, **__: Any) -> None:
            raise KeyboardInterrupt

        monkeypatch.setattr(evaluation, "load_scenarios", fails)
        watcher = Recorder()
        with pytest.raises(KeyboardInterrupt):
            redteam.run(PLAN, out=tmp_path, workers=0, observer=watcher)
        assert watcher.told == [("started", tmp_path), ("finished", None)]


class TestFrames:
    def test_a_row_is_a_cell(self, results: Results) -> None:
        frame = results.to_frame()
        assert len(frame) == len(results.cells)
        for (_, row), cell in zip(frame.iterrows(), results.cells, strict=True):
            assert (row["attack"], row["defense"], row["seed"]) == (cell.attack, cell.defense, cell.seed)
            assert row["theft"] == cell.scores["theft"]
            assert row["fidelity.bfloat16"] == cell.scores["fidelity"]["bfloat16"]
            assert row["tasks.victim"] == cell.tasks["victim"]
            assert row["seconds"] == cell.cost["seconds"]

    def test_verdicts_figures_and_controls(self, results: Results) -> None:
        verdicts = results.to_frame("verdicts").set_index("defense")
        for verdict in results.verdicts:
            assert verdict.theft is not None
            row = verdicts.loc[verdict.defense]
            assert (row["verdict"], row["flags"]) == (verdict.verdict, ", ".join(verdict.flags))
            theft = (verdict.theft.mean, verdict.theft.low, verdict.theft.high, verdict.theft.seeds, verdict.theft.over)
            assert tuple(row[["theft", "theft.low", "theft.high", "seeds", "over"]]) == theft
            assert row["fidelity.float32.low"] == verdict.fidelity["float32"].low
        assert [len(results.to_frame(t)) for t in TABLES] == [len(getattr(results, t)) for t in TABLES]
        assert list(results.to_frame("controls")["passed"]) == [control.passed for control in results.controls]

    @pytest.mark.parametrize("table", TABLES)
    def test_columns_and_dtypes_do_not_depend_on_what_was_found(self, results: Results, table: str) -> None:
        empty = results.model_copy(update={table: ()}).to_frame(table)
        full = results.to_frame(table)
        assert list(full.columns)[: empty.shape[1]] == list(empty.columns)
        assert dict(full.dtypes[: empty.shape[1]]) == dict(empty.dtypes)
        assert {str(kind) for kind in full.dtypes} <= {"str", "float64", "int64", "Int64", "bool", "boolean"}
        unlisted = full.columns[empty.shape[1] :]
        assert all(name.startswith(("tasks.", "by.", "gains.", "copied.", "figures.")) for name in unlisted), (
            "name new scores in frames.py, so that they are stable"
        )

    def test_failed_cells_have_a_row_without_figures(self, results: Results) -> None:
        failed = results.cells[0].model_copy(update={"status": "error", "scores": {}, "tasks": {}, "cost": {}})
        frame = results.model_copy(update={"cells": (failed, *results.cells[1:])}).to_frame()
        assert frame["status"][0] == "error"
        assert frame[["theft", "fidelity.float32", "tasks.victim", "seconds"]].isna().iloc[0].all()
        assert frame["theft"].notna()[1:].all()

    def test_other_tables_are_refused(self, results: Results) -> None:
        with pytest.raises(UnknownName, match="did you mean 'verdicts'"):
            results.to_frame("verdict")

    def test_read_back_they_are_the_same(self, results: Results, tmp_path: Path) -> None:
        results.write(tmp_path / "results.json")
        again = Results.read(tmp_path)
        assert all(again.to_frame(table).equals(results.to_frame(table)) for table in TABLES)

    def test_the_repr_names_the_verdicts(self, results: Results) -> None:
        told = repr(results)
        assert told == str(results)
        assert told.count("\n") == len(results.verdicts)
        assert "BROKEN rotation under weights-only: procrustes" in told
        assert len(told) < 1000


class TestByHand:
    """Plugins are functions of views; these are made from checkpoints."""

    @pytest.fixture(scope="class")
    @classmethod
    def toy(cls) -> redteam.Scenario:
        made: redteam.Scenario = SCENARIOS.load(f"{TOY}@toy").function()
        return made

    @pytest.fixture(scope="class")
    @classmethod
    def locked(cls, toy: redteam.Scenario) -> redteam.Checkpoint:
        view = redteam.DefenderView(toy.experts["victim"], toy.base, redteam.Key.generate())
        made: redteam.Checkpoint = DEFENSES.load("mergelock").function(view)
        return made

    def test_a_defense_then_an_attack_gives_the_victim_back(
        self, toy: redteam.Scenario, locked: redteam.Checkpoint
    ) -> None:
        victim = toy.experts["victim"]
        view = redteam.AttackerView.by_hand(locked, anchor=toy.base)
        recovered = ATTACKS.load("gauge-fit").function(view)
        assert _distance(locked, victim) > 10 * _distance(toy.base, victim)
        assert _distance(recovered, victim) < _distance(toy.base, victim)

    def test_a_merger(self, toy: redteam.Scenario) -> None:
        view = redteam.MergerView(toy.experts, toy.base, redteam.Key(bytes(32)))
        merged = MERGERS.load("task-arithmetic:coefficient=1").function(view, coefficient=1.0)
        name = next(iter(toy.base))
        tau = sum((expert[name] - toy.base[name]).double() for expert in toy.experts.values())
        assert torch.allclose(merged[name].double(), toy.base[name].double() + tau, atol=1e-6)

    def test_what_was_not_given_or_is_not_granted_is_one_sentence(self, locked: redteam.Checkpoint) -> None:
        view = redteam.AttackerView.by_hand(locked)
        with pytest.raises(BadInput, match="made without it"):
            view.anchor  # noqa: B018
        with pytest.raises(ThreatModelViolation, match="the defender's key"):
            view.key  # noqa: B018

    def test_the_same_seed_gives_the_same_streams(self, locked: redteam.Checkpoint) -> None:
        def draw(seed: int) -> float:
            return float(redteam.AttackerView.by_hand(locked, seed=seed).generator("x").random())

        assert draw(1) == draw(1) != draw(2)


def _distance(one: redteam.Checkpoint, other: redteam.Checkpoint) -> float:
    names = [name for name in one if name in other and "attention" in name]
    return float(sum((one[n].double() - other[n].double()).square().sum() for n in names)) ** 0.5
