"""Victims of the scenario digits that were trained on: longer task vectors, and nothing else that differs."""

import dataclasses

import pytest
import torch
from redteam_scenarios.digits import cache, digits
from redteam_scenarios.digits import growth as growing
from redteam_scenarios.digits.cache import ensure, ensure_grown, load
from redteam_scenarios.digits.recipe import CLASSES, VICTIM, Recipe

from redteam.checkpoint import shared_tensors
from redteam.errors import BadInput, BadSetting
from redteam.evaluation.plan import Plan
from redteam.plugins.reference import Reference, parse_chain
from redteam.plugins.registry import SCENARIOS
from redteam.plugins.shipped import shipped_file

TINY = dataclasses.replace(
    Recipe(),
    width=16,
    layers=1,
    heads=2,
    mlp=24,
    pretraining_steps=3,
    pretraining_batch=16,
    tuning_steps=dict.fromkeys(CLASSES, 4),
    tuning_batch=8,
    counts={"train": 12, "validation": 6, "test": 6},
)


@pytest.fixture
def own_cache(tmp_path, monkeypatch):
    monkeypatch.setenv("REDTEAM_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache" / "digits"


def length(scenario):
    """‖τ‖ of the victim, reckoned apart from the program: tensor by tensor of what is stored."""
    expert, base = scenario.experts[VICTIM], scenario.base
    return sum((expert[n].double() - base[n].double()).square().sum() for n in shared_tensors(expert, base)).sqrt()


def test_the_task_vector_grows_and_all_else_stays(own_cache):
    ordinary, grown = load(TINY, seed=0), load(TINY, seed=0, growth=3.0)
    recorded = growing.record(ensure_grown(TINY, 0, 3.0))
    assert recorded.steps > 1
    assert recorded.rate == TINY.tuning_rate * 1.5
    ratio = float(length(grown) / length(ordinary))
    assert 3 <= ratio < 3.5
    assert recorded.ratio == pytest.approx(ratio, rel=1e-9)
    assert grown.base.digest() == ordinary.base.digest()
    for task in CLASSES:
        assert grown.tasks[task].digest() == ordinary.tasks[task].digest()
        same = grown.experts[task].digest() == ordinary.experts[task].digest()
        assert same == (task != VICTIM)
    before, after = ordinary.experts[VICTIM], grown.experts[VICTIM]
    assert {n: (before.shape(n), before.dtype(n)) for n in before} == {
        n: (after.shape(n), after.dtype(n)) for n in after
    }
    assert after.config == before.config
    for name in before:
        if not name.endswith("key.bias"):  # softmax ignores it, so that it has no gradient
            assert torch.equal(before[name], after[name]) == name.startswith("classifier."), name


def test_it_turned_and_was_not_just_stretched(own_cache):
    ordinary, grown = load(TINY, seed=0), load(TINY, seed=0, growth=3.0)
    names = shared_tensors(ordinary.experts[VICTIM], ordinary.base)
    ours, theirs = (
        torch.cat([(s.experts[VICTIM][n].double() - s.base[n].double()).flatten() for n in names])
        for s in (ordinary, grown)
    )
    assert torch.cosine_similarity(ours, theirs, dim=0) < 0.99


def test_the_same_bits_come_out_again_whatever_the_threads(own_cache):
    before = torch.get_num_threads()
    first = load(TINY, seed=0, growth=2.0).digest()
    own_cache.rename(own_cache.with_name("old"))
    state = torch.get_rng_state()
    torch.set_num_threads(2)
    try:
        with torch.no_grad():
            assert load(TINY, seed=0, growth=2.0).digest() == first
        assert torch.get_num_threads() == 2
    finally:
        torch.set_num_threads(before)
    assert torch.equal(torch.get_rng_state(), state)
    assert load(TINY, seed=0, growth=2.5).digest() != first


def test_growth_one_is_the_ordinary_scenario(own_cache):
    ordinary, one = digits(), digits(growth=1.0)
    assert one.digest() == ordinary.digest() == load(Recipe(), seed=0).digest()
    assert one.summary == ordinary.summary
    assert [entry.name for entry in own_cache.iterdir()] == [ensure(Recipe(), 0).name]


def test_the_ordinary_folder_is_neither_changed_nor_made_again(own_cache, monkeypatch):
    folder = ensure(TINY, 0)
    before = {file: (file.stat().st_mtime_ns, file.read_bytes()) for file in folder.rglob("*") if file.is_file()}
    with monkeypatch.context() as patch:
        patch.setattr(cache, "train", None)
        grown = ensure_grown(TINY, 0, 2.0)
    assert grown.parent == folder.parent
    assert grown != folder
    assert {file: (file.stat().st_mtime_ns, file.read_bytes()) for file in before} == before
    with monkeypatch.context() as patch:
        patch.setattr(growing, "grow", None)  # it lies there already
        assert ensure_grown(TINY, 0, 2.0) == grown
    assert sum(file.stat().st_size for file in grown.rglob("*")) < sum(len(held) for _, held in before.values())


def test_an_interrupted_growth_leaves_no_folder(own_cache, monkeypatch):
    ordinary = ensure(TINY, 0)

    def interrupted(*arguments):
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(cache, "save", interrupted)
        with pytest.raises(KeyboardInterrupt):
            ensure_grown(TINY, 0, 2.0)
    assert list(own_cache.iterdir()) == [ordinary]


def test_another_ordinary_victim_has_another_address():
    origin = {"ordinary": "seed0-x", "base": "a", "victim": "b"}
    addresses = {
        growing.address(growth, origin | change)
        for growth in (2.0, 2.0000001)
        for change in ({}, {"ordinary": "seed1-x"}, {"base": "c"}, {"victim": "c"})
    }
    assert len(addresses) == 8


def test_a_growth_out_of_reach_is_one_sentence_and_leaves_no_folder(own_cache, monkeypatch):
    ordinary = ensure(TINY, 0)
    monkeypatch.setattr(growing, "_LIMIT", 2)
    with pytest.raises(BadSetting, match="choose a smaller growth"):
        ensure_grown(TINY, 0, 16.0)
    assert list(own_cache.iterdir()) == [ordinary]
    for bad in (0.5, 17, "2"):
        with pytest.raises(BadSetting, match="growth"):
            SCENARIOS.load(Reference("digits", {"growth": bad}))


def test_progress_is_shown(own_cache, capsys):
    ensure(TINY, 0)
    capsys.readouterr()
    ensure_grown(TINY, 0, 4.0)
    lines = capsys.readouterr().err.splitlines()
    assert lines[0] == "[0/100] digits, seed 0, growth 4: training"
    done = [int(line[1:].partition("/")[0]) for line in lines]
    assert done == sorted(set(done))
    assert done[-1] == 100
    assert len(done) > 3


def test_the_plan_drift_names_what_there_is():
    plan = Plan.read(shipped_file("plan", "drift"))
    settings = [reference.settings for text in plan.scenarios for reference in parse_chain(text)]
    assert [given.get("growth", 1) for given in settings] == [1, 2, 4, 8]
    assert {"mergelock", "rotation"} <= set(plan.defenses)
    for text in plan.scenarios:
        for reference in parse_chain(text):
            assert SCENARIOS.load(reference).function is digits


def test_a_record_that_is_damaged_is_noticed(own_cache):
    folder = ensure_grown(TINY, 0, 2.0)
    weights = folder / VICTIM / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:50])
    with pytest.raises(BadInput):
        load(TINY, seed=0, growth=2.0).digest()


@pytest.mark.slow
@pytest.mark.parametrize("growth", [2.0, 4.0, 8.0])
def test_a_victim_that_drifted_is_still_a_sensible_expert(growth):
    """Trains on seed 0 where the user's cache lacks it."""
    ordinary, scenario = digits(), digits(growth=growth)
    assert float(length(scenario) / length(ordinary)) == pytest.approx(growth, rel=0.02)
    expert = scenario.experts[VICTIM].module()
    assert scenario.tasks[VICTIM].scores(expert).mean() >= 0.85
