"""A scenario looked at as a whole, its data, skills and costs."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch

from redteam.checking import looked_at
from redteam.checking.cost import costs
from redteam.checking.data import splits
from redteam.checking.fitness import of_victims
from redteam.checking.skill import accuracies, gain, needed
from redteam.checking.trial import ITEMS, Trial, tried
from redteam.evaluation.estimate import span
from redteam.evaluation.footprint import Footprint
from redteam.evaluation.packing import Packed
from redteam.evaluation.plan import Plan
from redteam.evaluation.steps import Scored
from redteam.plugins.reference import Reference
from redteam.plugins.remarks import Remark
from tests.evaluation import toy as toys

TOY = str(Reference(f"{Path(toys.__file__)}@toy"))


@pytest.fixture(scope="module")
def found() -> Trial:
    return tried(toys.toy(), Plan.of({"scenarios": [TOY], "mergers": ["task-arithmetic", "linear"]}), Path())


@pytest.fixture(scope="module")
def remarks() -> list[Remark]:
    return list(looked_at(f"{TOY}:drift=0.2", workers=2))


def test_everything_is_said_and_nothing_is_wrong(remarks: list[Remark]) -> None:
    about = list(dict.fromkeys(remark.about for remark in remarks))
    assert about == ["weights", "descent", "data", "scores", "gain", "items", "time", "memory", "disk"]
    assert not [remark for remark in remarks if remark.state == "WRONG"]
    assert sum(remark.about == "gain" for remark in remarks) == 4
    assert all("\n" not in remark.told and not remark.told.endswith(".") for remark in remarks)


def test_each_victim_in_turn_has_a_gain_and_items_of_its_own() -> None:
    found = list(
        looked_at(str(Reference(f"{Path(toys.__file__)}@turning", {"victim": "each", "drift": 0.2})), workers=2)
    )
    assert not [remark for remark in found if remark.state == "WRONG"]
    for about in ("gain", "items"):
        told = [remark.told for remark in found if remark.about == about]
        assert list(dict.fromkeys(text.split()[0] for text in told)) == ["victim", "left", "right"]
        assert all(text.split()[1:4] == ["as", "the", "victim:"] for text in told)
    assert sum(remark.about == "scores" for remark in found) == 3


def test_a_victim_without_a_gain_is_wrong_only_where_none_has_one() -> None:
    def states(*gains: str) -> list[str]:
        said = [(name, Remark(state, "gain", "so it is")) for name, state in zip("ab", gains, strict=False)]
        items = [("a", Remark("WRONG", "items", "too few"))]
        return [remark.state for remark in of_victims([*said, *items])]

    assert states("WRONG", "ok") == ["note", "ok", "WRONG"]
    assert states("WRONG", "WRONG") == ["WRONG", "WRONG", "WRONG"]
    assert [r.told for r in of_victims([("", Remark("WRONG", "gain", "so it is"))])] == ["so it is"]


def test_what_is_measured_is_what_a_run_measures(found: Trial) -> None:
    scenario = toys.toy()
    for name, packed in found.alone.experts.items():
        assert packed.n == ITEMS
        assert packed.mean() == 1.0  # by definition
        assert found.alone.base[name].n == ITEMS
    baselines = found.baselines["task-arithmetic"]
    assert baselines.victim == scenario.victim
    assert baselines.items == ITEMS
    expert = found.alone.experts["victim"].mean() - 0.25
    shown = (baselines.reference.tasks["victim"].mean() - baselines.without.tasks["victim"].mean()) / expert
    assert baselines.gain[0] == pytest.approx(shown)
    assert found.merge > 0
    assert found.item > 0


def trial(experts: dict[str, Any], base: dict[str, Any], chance: float = 0.5) -> Trial:
    def packed(held: dict[str, Any]) -> dict[str, Packed]:
        return {name: Packed.of(np.asarray(values)) for name, values in held.items()}

    alone = Scored("mine", dict.fromkeys(experts, chance), packed(experts), packed(base), {}, {}, {}, 1.0)
    return Trial(alone, {}, merge=1.0, item=0.1, wide=0.1, resident=None)


@pytest.mark.parametrize(
    ("right", "base", "state", "told"),
    [
        (60, 30, "ok", "expert 0.94, base 0.47, guessing 0.50, on 64 test items"),
        (36, 30, "WRONG", "the expert cannot do its task, so check labels and columns"),
        (60, 59, "note", "under its head the base does hardly worse"),
    ],
)
def test_what_experts_and_base_can_do(right: int, base: int, state: str, told: str) -> None:
    def first(count: int) -> np.ndarray[Any, Any]:
        return np.arange(64) < count

    (remark,) = accuracies(trial({"mine": first(right)}, {"mine": first(base)}))
    assert remark.state == state
    assert told in remark.told


def test_scores_that_are_numbers() -> None:
    gap = np.linspace(0.01, 0.03, 64)
    (good,) = accuracies(trial({"mine": gap}, {"mine": 0 * gap}, chance=0.0))
    assert (good.state, good.told) == ("ok", "'mine': expert 0.020, base 0.000, guessing 0.000, on 64 test items")
    (bad,) = accuracies(trial({"mine": -1e-5 * gap}, {"mine": 0 * gap}, chance=0.0))
    assert bad.state == "WRONG"
    assert "expert 0.000, base 0.000" in bad.told


def test_a_victim_that_adds_nothing(found: Trial) -> None:
    nothing = {name: replace(held, reference=held.without) for name, held in found.baselines.items()}
    remarks = list(gain(replace(found, baselines=nothing), 500))
    assert [remark.state for remark in remarks] == ["WRONG", "WRONG"]
    assert all("too little to be stolen" in remark.told for remark in remarks)


def test_one_merger_that_gains_is_enough(found: Trial) -> None:
    first, other = found.baselines.items()
    held = {first[0]: replace(first[1], reference=first[1].without), other[0]: other[1]}
    assert [remark.state for remark in gain(replace(found, baselines=held), 500)] == ["note", "ok", "ok"]


def test_items_that_a_verdict_takes(found: Trial) -> None:
    wanted = needed(found.baselines["task-arithmetic"])
    states = {count: list(gain(found, count))[-1].state for count in (2, wanted - 1, wanted)}
    assert states[2] == "WRONG"
    assert states[wanted] == "ok"
    assert 2 < wanted < 500


def test_inputs_in_two_splits() -> None:
    scenario = toys.toy(architecture="bert")
    task = scenario.tasks["left"]
    assert not [remark for remark in splits(scenario) if remark.state != "ok"]
    # The same tokens, padded to another length.
    padded = torch.cat([task.inputs["test"]["input_ids"][:7], torch.zeros(7, 3, dtype=torch.int64)], 1)
    mask = (torch.arange(11) < 8).long().expand(7, -1)
    test = {**task.inputs["test"], "attention_mask": torch.ones_like(task.inputs["test"]["input_ids"])}
    train = {"input_ids": padded, "attention_mask": mask}
    leaky = replace(task, inputs={**task.inputs, "train": train, "test": test})
    (wrong,) = [r for r in splits(replace(scenario, tasks={**scenario.tasks, "left": leaky})) if r.state != "ok"]
    assert wrong.state == "WRONG"
    assert wrong.told.startswith("7 test items of 'left' look to the network like train items")


def test_one_label_nearly_alone() -> None:
    scenario = toys.toy()
    task = scenario.tasks["left"]
    labels = torch.zeros_like(task.labels["test"])
    labels[:9] = 1
    skewed = replace(task, labels={**task.labels, "test": labels})
    (note,) = [r for r in splits(replace(scenario, tasks={**scenario.tasks, "left": skewed})) if r.state != "ok"]
    assert (note.state, note.about) == ("note", "data")
    assert note.told.startswith("491 of 500 test items of 'left' have the label 0")


def test_too_little_memory_or_disk(found: Trial, monkeypatch: pytest.MonkeyPatch) -> None:
    scenario, plan = toys.toy(), Plan.of({"scenarios": [TOY], "attacks": []})
    small = replace(found, resident=1000.0)

    def said(free: float, disk: float) -> dict[str, Remark]:
        monkeypatch.setattr("redteam.checking.cost.free", lambda: free)
        monkeypatch.setattr("shutil.disk_usage", lambda _: SimpleNamespace(free=disk))
        return {remark.about: remark for remark in costs(scenario, small, plan, Path(), workers=4)}

    enough = said(4e9, 1e9)
    assert [enough[about].state for about in ("memory", "disk")] == ["ok", "ok"]
    assert enough["memory"].told.startswith("1.2 GB with one process and")
    assert enough["memory"].told.endswith("; 5 GB are free")
    tight = said(0.6e9, 1e9)["memory"]
    assert (tight.state, tight.told.rpartition("; ")[2]) == ("note", "run with --memory 1.3GB")
    short = said(0.1e9, 1.0)
    assert [short[about].state for about in ("memory", "disk")] == ["WRONG", "WRONG"]
    assert "too little" in short["memory"].told
    assert "name a folder elsewhere with --out" in short["disk"].told


def test_time_grows_with_merges_and_items() -> None:
    scenario = toys.toy()
    slow = Footprint.of(scenario).seconds(0.01, 0.03, 10.0)
    assert slow["merge"] == pytest.approx(10 + 0.01 * (1500 + 100))
    assert slow["try"] == pytest.approx(10 + 0.01 * 200)
    assert slow["attack"] == pytest.approx(10 + 0.03 * 2 * 22 * 2)
    assert slow["lock"] == pytest.approx(slow["attack"] + 0.03 * 500)


def test_a_seed_can_be_named() -> None:
    about = [remark.about for remark in looked_at(f"{TOY}:drift=0.2,seed=1", workers=1)]
    assert about[-1] == "disk"


def test_spans_of_time() -> None:
    assert [span(seconds) for seconds in (12.3, 600, 9000)] == ["12 s", "10 min", "2.5 h"]
