"""Experts that a file has trained from the base, whole or as adapters."""

from __future__ import annotations

import importlib.metadata
from pathlib import Path

import pytest
import torch

from redteam.checkpoint import own_tensors
from redteam.errors import BadInput
from tests.scenarios import test_folder
from tests.scenarios.test_folder import change, load

_cache, place = test_folder._cache, test_folder.place  # fixtures


@pytest.fixture
def to_train(place: Path) -> Path:
    """The same, a companion to be trained."""
    change(
        place, 'model = "sport"\n', 'train = true\nkind = "text-classification"\nsteps = 60\nrate = 2e-3\nbatch = 32\n'
    )
    return place


def test_an_adapter_is_trained_and_merged(to_train: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    change(to_train, "rate = 2e-3\n", "rate = 1e-2\nlora = 3\n")
    scenario = load(to_train)
    base, expert = scenario.base, scenario.experts["sport"]
    moved = {name: (expert[name] - base[name]).double() for name in base}
    ranks = {name: int(torch.linalg.matrix_rank(x, rtol=1e-4)) for name, x in moved.items() if x.any()}
    in_blocks = {name for name in base if ".layer." in name and len(base.shape(name)) == 2}
    assert ranks == dict.fromkeys(in_blocks, 3)
    task = scenario.tasks["sport"]
    before = task.scores(scenario.dressed(base, "sport").module(), "train").mean()
    assert task.scores(expert.module(), "train").mean() > before + 0.2
    monkeypatch.setattr("redteam_scenarios.folder.trained.adapted", lambda *_, **__: pytest.fail("trained again"))
    assert load(to_train).digest() == scenario.digest()


def test_adapters_are_for_what_is_trained_and_take_peft(
    to_train: Path, place: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    version = importlib.metadata.version

    def absent(name: str) -> str:
        if name == "peft":
            raise importlib.metadata.PackageNotFoundError(name)
        return version(name)

    change(to_train, "steps = 60\n", "steps = 60\nlora = 3\n")
    with monkeypatch.context() as without:
        without.setattr("redteam_scenarios.folder.adapters.importlib.metadata.version", absent)
        with pytest.raises(
            BadInput, match=r"PEFT trains and which is not installed; pip install 'merge-redteam\[peft\]'"
        ):
            load(to_train)
    change(to_train, 'train = true\nkind = "text-classification"\n', 'model = "sport"\n')
    with pytest.raises(BadInput, match="lora is for an expert that is trained; add train = true"):
        load(to_train)


def test_an_expert_that_is_missing_is_trained_once(to_train: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    first = load(to_train)
    task, expert = first.tasks["sport"], first.experts["sport"]
    assert list(expert.config["id2label"].values()) == ["ball", "water"]
    right = task.scores(expert.module(), "train").mean()
    assert right > task.scores(first.dressed(first.base, "sport").module(), "train").mean() + 0.2
    assert own_tensors(expert, first.base) == ("classifier.bias", "classifier.weight")
    monkeypatch.setattr("redteam_scenarios.folder.trained.train", lambda *_, **__: pytest.fail("trained again"))
    assert load(to_train).digest() == first.digest()


def test_another_seed_trains_another_expert(to_train: Path) -> None:
    change(to_train, 'model = "support"\n', 'train = true\nkind = "text-classification"\nsteps = 2\n')
    assert load(to_train, 0).experts["support"].digest() != load(to_train, 1).experts["support"].digest()


def test_training_needs_a_kind_and_no_model(place: Path) -> None:
    change(place, 'model = "sport"\n', "train = true\n")
    with pytest.raises(BadInput, match=r"tasks\.sport is to be trained and nothing says for what; add kind"):
        load(place)
    change(place, "train = true\n", 'train = true\nmodel = "sport"\n')
    with pytest.raises(BadInput, match=r"tasks\.sport has a model and asks for training one"):
        load(place)
