"""Whatever an adapter's config and tensors say: it is merged whole, or refused in one sentence."""

from __future__ import annotations

import json
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from safetensors.torch import save_file
from torch import Tensor

from redteam.checkpoint import Checkpoint
from redteam.errors import RedteamError

pytestmark = pytest.mark.filterwarnings("ignore")  # PEFT warns of much
HIDDEN, INNER, VOCABULARY = 8, 6, 11
MODULES = {
    f"model.layers.{layer}.{name}": shape
    for layer in (0, 1)
    for name, shape in (("self_attn.q_proj", (HIDDEN, HIDDEN)), ("mlp.down_proj", (HIDDEN, INNER)))
}
KEYS = (
    *(
        "peft_type",
        "r",
        "lora_alpha",
        "alpha",
        "target_modules",
        "exclude_modules",
        "target_parameters",
        "rank_pattern",
    ),
    *("alpha_pattern", "use_dora", "use_rslora", "lora_bias", "bias", "fan_in_fan_out", "init_lora_weights"),
    *("modules_to_save", "layers_to_transform", "layers_pattern", "trainable_token_indices", "token_indices"),
    *("layer_replication", "auto_mapping", "megatron_config", "ensure_weight_tying", "feedforward_modules"),
    *("oft_block_size", "lora_dropout", "inference_mode", "task_type", "loftq_config", "runtime_config", "revision"),
)
NAMES = (
    "q_proj",
    "down_proj",
    "model.layers.0.mlp.down_proj",
    "embed_tokens",
    "lm_head",
    "q_proj.weight",
    ".*",
    "(a+)+b",
)
PLAIN = st.none() | st.booleans() | st.integers(-3, 40) | st.floats(allow_nan=False) | st.sampled_from(NAMES)
VALUES = st.recursive(
    PLAIN | st.sampled_from(("LORA", "LOHA", "IA3", "OFT", "TRAINABLE_TOKENS", "all-linear", "pissa", "eva", "(a+)+b")),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from(NAMES), inner, max_size=2),
    max_leaves=4,
)
CHANGES = st.tuples(
    st.sampled_from(("drop", "cut", "turn", "narrow", "fill", "rename", "copy")),
    st.integers(0, 30),
    st.sampled_from((*MODULES, "model.embed_tokens", "lm_head", "base_layer", "x" * 300)),
    st.sampled_from(("lora_A", "lora_B", "lora_magnitude_vector", "lora_embedding_A", "modules_to_save", "weight", "")),
)


def halves(dora: bool) -> dict[str, Tensor]:
    """A LoRA of the small network, as PEFT writes it."""
    generator, found = torch.Generator().manual_seed(0), dict[str, Tensor]()
    for module, (rows, columns) in MODULES.items():
        found[f"{module}.lora_A.weight"] = torch.randn(2, columns, generator=generator)
        found[f"{module}.lora_B.weight"] = torch.randn(rows, 2, generator=generator)
        if dora:
            found[f"{module}.lora_magnitude_vector"] = torch.rand(rows, generator=generator)
    return {f"base_model.model.{name}": tensor for name, tensor in found.items()}


def mutated(tensors: dict[str, Tensor], changes: list[tuple[str, int, str, str]]) -> dict[str, Tensor]:
    found = dict(tensors)
    for what, place, module, part in changes:
        name = list(found)[place % len(found)] if found else ""
        if not name:
            break
        tensor = found.pop(name)
        other = ".".join(filter(None, ("base_model.model", module, part)))
        if what == "cut":
            found[name] = tensor.flatten()[:-1].clone()
        elif what == "turn":
            found[name] = tensor.mT.contiguous() if tensor.dim() > 1 else tensor[None].clone()
        elif what == "narrow":
            found[name] = tensor.to((torch.float16, torch.int32, torch.float8_e4m3fn, torch.bool)[place % 4])
        elif what == "fill":
            found[name] = torch.full(tensor.shape, (torch.nan, torch.inf, 0.0, 1e30)[place % 4]).to(tensor.dtype)
        elif what == "rename":
            found[other] = tensor
        elif what == "copy":
            found |= {name: tensor, other: tensor.clone()}
    return found


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    from transformers import LlamaConfig, LlamaForCausalLM

    torch.manual_seed(0)
    sizes = {"hidden_size": HIDDEN, "intermediate_size": INNER, "vocab_size": VOCABULARY, "num_hidden_layers": 2}
    heads = {"num_attention_heads": 2, "max_position_embeddings": 16, "pad_token_id": 0}
    path = tmp_path_factory.mktemp("fuzz") / "base"
    LlamaForCausalLM(LlamaConfig(**sizes, **heads)).save_pretrained(path)
    return path


def written(path: Path, dora: bool, said: dict[str, Any], changes: list[tuple[str, int, str, str]]) -> None:
    usual = {"peft_type": "LORA", "r": 2, "lora_alpha": 4, "target_modules": ["q_proj", "down_proj"], "use_dora": dora}
    path.mkdir()
    save_file(mutated(halves(dora), changes), path / "adapter_model.safetensors")
    (path / "adapter_config.json").write_text(json.dumps({**usual, **said}))


ADAPTER = {
    "dora": st.booleans(),
    "said": st.dictionaries(st.sampled_from(KEYS), VALUES, max_size=3),
    "changes": st.lists(CHANGES, max_size=3),
}


@settings(max_examples=100, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(**ADAPTER)
def test_an_adapter_is_merged_or_refused(
    base: Path, dora: bool, said: dict[str, Any], changes: list[tuple[str, int, str, str]]
) -> None:
    below = Checkpoint.open(base)
    with tempfile.TemporaryDirectory() as folder:
        written(Path(folder) / "a", dora, said, changes)
        try:
            found = Checkpoint.open(Path(folder) / "a", base=below)
            tensors = dict(found)
        except RedteamError as error:
            refused = str(error)
        else:
            refused = ""
        assert "\n" not in refused
        assert len(refused) < 1500
        if refused:
            return
        assert set(below) <= set(tensors)
        for name, tensor in tensors.items():
            assert (tuple(tensor.shape), tensor.dtype) == (found.shape(name), found.dtype(name))
        assert any(name not in below or not torch.equal(tensors[name], below[name]) for name in tensors) or changes


@settings(max_examples=8, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(**ADAPTER)
def test_a_command_writes_a_whole_model_or_says_why_not(
    base: Path, shell: Callable[..., Any], dora: bool, said: dict[str, Any], changes: list[tuple[str, int, str, str]]
) -> None:
    with tempfile.TemporaryDirectory() as folder:
        adapter, out, key = (str(Path(folder) / name) for name in ("a", "out", "key"))
        written(Path(adapter), dora, said, changes)
        lock = ("protect", "permutation:sites=[mlp]", adapter, "--base", str(base), "--key", key, "--out", out)
        told = shell(*lock, "--unproven")
        assert told.code in (0, 2)
        assert "internal error" not in told.err
        assert Path(out).exists() == (told.code == 0)
        if told.code == 0:
            assert len(Checkpoint.open(out)) >= len(Checkpoint.open(base))
