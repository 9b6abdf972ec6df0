"""Networks larger than memory: run block by block they compute the same, and hold one block's weights at a time."""

import math
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from redteam.anatomy.catalog import FOLDER
from redteam.checkpoint import Checkpoint
from redteam.checkpoint.modules import build_streamed
from redteam.checkpoint.streamed import Streamed, largest_group
from redteam.errors import BadInput, NotACheckpoint
from redteam.lifted import lifted
from redteam.symmetry import prove
from redteam.symmetry.running import run_network
from tools.catalogue import trial_of

QUICK = ("llama", "mixtral", "granitemoe", "gpt2", "t5", "bert", "idefics3", "llama4_text", "gemma3")
ELSEWHERE = {"open_clip", "marian", "deberta", "layoutlmv3"}
"""Not of transformers; positions that are computed and not stored; weights that another module's code takes."""
TYPES = sorted({file.stem for file in FOLDER.glob("*.json")} - ELSEWHERE)


@pytest.mark.parametrize("name", [pytest.param(n, marks=[] if n in QUICK else [pytest.mark.slow]) for n in TYPES])
def test_it_computes_what_the_whole_network_does(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("redteam.checkpoint.streamed._SLICE", 100)  # so that tables are of several slices
    trial = trial_of(name)
    whole = run_network(trial.checkpoint, trial.inputs, torch.float64)
    parts = run_network(trial.checkpoint, trial.inputs, torch.float64, streamed=True)
    assert parts.change(whole) <= 1e-6  # some angles are in float32 there and not here
    assert parts.change_of_states(whole) <= 1e-6
    assert set(parts.unread) == set(whole.unread)


def test_one_block_is_held_at_a_time() -> None:
    trial = trial_of("llama")
    found = build_streamed(trial.checkpoint, torch.float64)
    held: list[int] = []
    counts: list[int] = []

    def count(*_: Any) -> None:
        places = {w.untyped_storage().data_ptr(): w.untyped_storage().nbytes() for w in found.network.parameters()}
        counts.append(sum(places.values()) // 8)

    for module in found.network.modules():
        module.register_forward_hook(count)
    found.dropping = lambda weights: held.append(len(weights))
    with torch.no_grad():
        found.network(**trial.inputs[0])
    assert len(held) == 2 + 3  # embedding, blocks, norm, head
    assert max(counts) <= largest_group(trial.checkpoint) + 100
    assert sum(weight.numel() for weight in found.network.parameters()) > 2 * max(counts)
    assert all(bool(weight.isnan().all()) for weight in found.network.parameters()), "what is used too late is NaN"


def test_of_a_large_table_the_rows_in_use_are_held(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("redteam.checkpoint.streamed._SLICE", 100)
    trial = trial_of("llama")
    tables = [name for name in trial.checkpoint if name in ("model.embed_tokens.weight", "lm_head.weight")]
    found = build_streamed(trial.checkpoint, torch.float64)
    with torch.no_grad(), lifted(), found.sliced():
        outputs = found.network(**trial.inputs[0]).logits
    assert float((outputs - trial.exact.outputs[0]).abs().max()) <= 1e-6
    assert len(tables) == 2
    assert all(bool(found.network.get_parameter(name).isnan().all()) for name in tables)


def test_a_table_that_is_used_in_another_way_is_not_believed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("redteam.checkpoint.streamed._SLICE", 100)
    found = build_streamed(trial_of("llama").checkpoint, torch.float64)
    with torch.no_grad(), found.sliced():
        states = found.network.model(**trial_of("llama").inputs[0])[0]
        assert bool((states @ found.network.lm_head.weight.T).isnan().all())


def test_tensors_that_do_not_fit_are_refused() -> None:
    checkpoint = trial_of("llama").checkpoint
    name = "model.layers.1.self_attn.q_proj.weight"
    for wrong in (
        checkpoint.only([n for n in checkpoint if n != name]),
        checkpoint.replace({name: torch.ones(3, 3)}),
        checkpoint.replace({"model.layers.1.self_attn.extra.weight": torch.ones(3, 3)}),
    ):
        with pytest.raises(NotACheckpoint, match=r"do not fit a LlamaForCausalLM \((missing|mismatched|unexpected)"):
            build_streamed(wrong, torch.float64)


@pytest.fixture
def large(monkeypatch: pytest.MonkeyPatch) -> None:
    """Every network counts as a large one, and as too large for memory as a whole."""
    monkeypatch.setattr("redteam.symmetry.proof._LARGE", 0)
    monkeypatch.setattr("redteam.symmetry.proof._BYTES", 2**50)


@pytest.mark.usefixtures("large")
@pytest.mark.parametrize("name", ["llama", "mixtral", "t5"])
def test_a_large_network_is_proven_block_by_block(name: str) -> None:
    before = trial_of(name).checkpoint
    target = next(n for n in before if n.endswith(("down_proj.weight", "w2.weight", "wo.weight")) and ".1." in n)
    kept, broken = prove(before, before), prove(before, before.replace({target: before[target] * 1.01}))
    assert kept.holds
    assert kept.change == 0
    assert broken.moved
    assert math.isfinite(broken.change)


@pytest.mark.usefixtures("large")
def test_a_model_larger_than_memory_is_locked_and_proven(
    shell: Callable[..., Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    trial_of("llama").checkpoint.save(tmp_path / "model")
    told = shell("protect", "mergelock", "model", "--key", "key", "--out", "out")
    assert told.code == 0, told.err
    assert "Proven" in told.out


def test_what_cannot_be_streamed_is_run_as_a_whole(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("redteam.symmetry.proof._LARGE", 0)
    before = trial_of("marian").checkpoint
    with pytest.raises(NotACheckpoint):
        build_streamed(before, torch.float64)
    assert prove(before, before).holds
    monkeypatch.setattr("redteam.symmetry.proof._BYTES", 2**50)
    with pytest.raises(BadInput, match="GB of memory"):
        prove(before, before)


def _loads(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The tensors that are read from now on for blocks that run."""
    found: list[str] = []
    load = Streamed._load
    monkeypatch.setattr(Streamed, "_load", lambda self, group: (found.extend(group.names), load(self, group))[1])
    return found


def _locked(before: Checkpoint) -> Checkpoint:
    """With the decoder's neurons in another order."""
    name = "language_model.model.layers.{}.mlp.{}_proj.weight"
    order = torch.arange(before.shape(name.format(0, "gate"))[0] - 1, -1, -1)
    changed = {}
    for layer in (0, 1):
        changed |= {name.format(layer, part): before[name.format(layer, part)][order] for part in ("gate", "up")}
        changed[name.format(layer, "down")] = before[name.format(layer, "down")][:, order]
    return before.replace(changed)


@pytest.mark.usefixtures("large")
def test_a_tower_that_both_networks_have_runs_once(monkeypatch: pytest.MonkeyPatch) -> None:
    before = trial_of("gemma3").checkpoint
    after = _locked(before)
    names = _loads(monkeypatch)
    proof = prove(before, after)
    tower = [name for name in before if "vision_tower" in name and ".layers." in name]
    assert proof.holds
    assert proof.change > 0, "the decoder ran twice"
    assert tower
    assert {names.count(name) for name in tower} == {1}


@pytest.mark.usefixtures("large")
def test_a_changed_tower_is_caught_beside_a_lock_that_holds() -> None:
    before = trial_of("gemma3").checkpoint
    after = _locked(before)
    tower = [name for name in before if re.search(r"vision_tower.*\.layers\..*fc1\.weight", name)]
    assert len(tower) >= 2
    for name in tower:
        weight = before[name].clone()
        weight[0] *= 1.01
        assert prove(before, after.replace({name: weight})).outputs_moved, name


@pytest.mark.usefixtures("large")
def test_the_same_weights_under_another_config_run_twice() -> None:
    before = trial_of("llama").checkpoint
    assert prove(before, before.configured({"hidden_act": "relu"})).outputs_moved
