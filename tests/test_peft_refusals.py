"""Adapters that cannot be merged whole are refused, with what is missing, too much or not to be had."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from redteam.checkpoint import Checkpoint
from redteam.errors import NotACheckpoint
from tests.peft_adapters import (
    EXPERTS,
    changed,
    fresh,
    logits,
    lora,
    opened,
    trained,
    without,
)

pytestmark = pytest.mark.filterwarnings("ignore")  # PEFT warns of much that is meant here


@pytest.mark.parametrize("dora", [False, True])
def test_what_it_changes_is_counted(tmp_path: Path, dora: bool) -> None:
    trained(tmp_path, "llama", lora(use_dora=dora, modules_to_save=["lm_head"]))
    assert opened(tmp_path).remarks == ("The adapter changes 4 modules and replaces 1 tensor of its base.",)


@pytest.mark.parametrize("dora", [False, True])
def test_every_module_that_the_config_speaks_of_must_have_weights(tmp_path: Path, dora: bool) -> None:
    """As in "320 of 326": what is missing is listed."""
    trained(tmp_path, "llama", lora(use_dora=dora))
    changed(tmp_path, without("layers.1.mlp"))
    with pytest.raises(NotACheckpoint, match=r"3 of 4 modules.*none for 'model\.layers\.1\.mlp\.down_proj'"):
        opened(tmp_path)


def test_parameters_and_tokens_are_counted_as_well(tmp_path: Path) -> None:
    settings = {"target_modules": ["q_proj"], "target_parameters": EXPERTS}
    trained(tmp_path, "qwen3_moe", lora(**settings, trainable_token_indices=[3]))
    opened(tmp_path)
    changed(tmp_path, without("token_adapter"))
    with pytest.raises(NotACheckpoint, match=r"single tokens, and it has no weights for any"):
        opened(tmp_path)
    changed(tmp_path, without("layers.1.mlp.experts"), trainable_token_indices=None)
    with pytest.raises(NotACheckpoint, match=r"1 of 2 modules, and none for 'model\.layers\.1\.mlp\.experts'"):
        opened(tmp_path)


@pytest.mark.parametrize(
    ("target", "told"),
    [
        (r".*\.(q_proj|down_proj)", True),
        ("all-linear", True),
        ("(a+)+|.*_proj", False),  # a pattern that is not followed: what has weights is what is meant
        (["model.layers.0.mlp.down_proj", "q_proj"], False),
    ],
)
def test_patterns_are_counted_where_they_can_be_followed(tmp_path: Path, target: Any, told: bool) -> None:
    trained(tmp_path, "llama", lora())
    changed(tmp_path, without("layers.1.mlp"), target_modules=target)
    if told:
        with pytest.raises(NotACheckpoint, match=r"3 of 4 modules"):
            opened(tmp_path)
    else:
        opened(tmp_path)


def test_layers_that_are_left_out_on_purpose_are_none_that_are_missing(tmp_path: Path) -> None:
    trained(tmp_path, "llama", lora(layers_to_transform=[0]))
    opened(tmp_path)
    changed(tmp_path, layers_to_transform=[0, 1])
    with pytest.raises(NotACheckpoint, match="2 of 4 modules"):
        opened(tmp_path)
    changed(tmp_path, layers_to_transform=None, exclude_modules=["layers.1.self_attn.q_proj", "layers.1.mlp.down_proj"])
    opened(tmp_path)


@pytest.mark.parametrize("dora", [False, True])
def test_modules_that_the_base_lacks_are_all_named(tmp_path: Path, dora: bool) -> None:
    """0 of 326: an adapter of another network."""
    trained(tmp_path, "llama", lora(use_dora=dora))
    changed(tmp_path, lambda tensors: {n.replace("layers", "blocks"): t for n, t in tensors.items()})
    with pytest.raises(NotACheckpoint, match=r"blocks\.0\.mlp\.down_proj.*blocks\.1\.self_attn\.q_proj"):
        opened(tmp_path)


@pytest.mark.parametrize(
    "settings", [{"target_modules": ["embed_tokens", "q_proj"]}, {"modules_to_save": ["embed_tokens"]}]
)
@pytest.mark.parametrize("dora", [False, True])
def test_a_tied_head_does_not_change_with_the_embedding(tmp_path: Path, dora: bool, settings: dict[str, Any]) -> None:
    """PEFT leaves the head as it was while it trains, and changes it in a merge."""
    trained(tmp_path, "tied", lora(use_dora=dora, **settings))
    with pytest.raises(NotACheckpoint, match=r"changes 'model\.embed_tokens\.weight' as an embedding alone"):
        opened(tmp_path)


@pytest.mark.parametrize(
    "settings", [{"target_modules": ["embed_tokens", "q_proj"]}, {"modules_to_save": ["embed_tokens", "lm_head"]}]
)
def test_a_head_that_came_along_with_its_tied_embedding_is_one_with_it(
    tmp_path: Path, settings: dict[str, Any]
) -> None:
    """Compared with the adapter at work: PEFT's merge adds the change of a tied embedding twice."""
    model = trained(tmp_path, "tied", lora(ensure_weight_tying=True, **settings))
    found, network = opened(tmp_path), fresh("tied")
    network.load_state_dict({**found, "lm_head.weight": found["model.embed_tokens.weight"]})
    assert torch.allclose(logits(network), logits(model), rtol=1e-4, atol=1e-4)


def test_an_update_of_a_tied_head_alone_is_refused(tmp_path: Path) -> None:
    trained(tmp_path, "tied", lora(target_modules=["embed_tokens", "q_proj"], ensure_weight_tying=True))
    changed(tmp_path, lambda tensors: {n: t * 2 if "lm_head" in n else t for n, t in tensors.items()})
    with pytest.raises(NotACheckpoint, match=r"an update of its own for .*lm_head"):
        opened(tmp_path)


PISSA = {"init_lora_weights": "pissa"}


@pytest.mark.parametrize(
    ("change", "settings", "why"),
    [
        (None, PISSA, "changed its base when it was made"),
        (None, {"alora_invocation_tokens": [1]}, "acts from some token on"),
        (None, {"layer_replication": [[0, 2], [1, 2]]}, "repeats layers"),
        (None, {"megatron_config": {"x": 1}, "megatron_core": "os"}, "Megatron"),
        (None, {"use_whatever": True}, "'use_whatever', which this version of PEFT does not know"),
        (None, {"r": 10**12}, "a number that no adapter has"),
        (None, {"r": 3}, r"lora_A\.weight' is \[2, 20\] where \[3, 20\] fits"),
        (None, {"rank_pattern": {"(a+)+b": 2}}, "a pattern that is not followed"),
        (None, {"peft_type": "VERA"}, "'VERA', and LORA"),
        (None, {"peft_type": "LOHA"}, "does not know|holds nothing|cannot be merged"),
        (without("layers.1.mlp.down_proj.lora_magnitude"), {}, "no weights for .*lora_magnitude"),
        (without("lora_A"), {}, "no weights for .*lora_A"),
        (without("lora_"), {}, "nothing of an adapter"),
        (lambda t: {**t, "base_model.model.model.layers.0.mlp.down_proj.lora_C.weight": torch.ones(2)}, {}, "lora_C"),
        (lambda t: {n: x * torch.nan for n, x in t.items()}, {}, "NaN"),
        (lambda t: {n: x[:1] for n, x in t.items()}, {}, r"is \[1, 20\] where"),
    ],
)
def test_what_cannot_be_merged_is_refused_by_name(
    tmp_path: Path, change: Any, settings: dict[str, Any], why: str
) -> None:
    trained(tmp_path, "llama", lora(use_dora=True))
    changed(tmp_path, change, **settings)
    with pytest.raises(NotACheckpoint, match=why) as told:
        dict(opened(tmp_path))
    assert "The adapter in" in str(told.value)


def test_tokens_that_are_not_there_are_refused(tmp_path: Path) -> None:
    trained(tmp_path, "llama", lora(trainable_token_indices=[3, 7]))
    for wrong in ([3, 70], [3], "many", {"other": [3, 7]}):
        changed(tmp_path, trainable_token_indices=wrong)
        with pytest.raises(NotACheckpoint, match="The adapter in"):
            dict(opened(tmp_path))


def test_a_network_that_nobody_knows_is_said_so(tmp_path: Path) -> None:
    trained(tmp_path, "llama", lora(use_dora=True))
    base = Checkpoint.open(tmp_path / "base").configured({"architectures": ["Own"], "model_type": "own"})
    with pytest.raises(NotACheckpoint, match=r"DoRA.*names no network that transformers knows"):
        Checkpoint.open(tmp_path / "adapter", base=base)
