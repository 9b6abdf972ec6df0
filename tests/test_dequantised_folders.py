"""Quantised models through the commands: what is written is plain, loads, and computes what the codes stand for."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from redteam.checkpoint import Checkpoint
from tests.codes import (
    BLOCKS,
    folder,
    microscaled,
    spread,
)

TEXT = {"num_hidden_layers": 2, "num_attention_heads": 4, "num_key_value_heads": 2, "vocab_size": 30}
QWEN = {**TEXT, "hidden_size": 132, "head_dim": 16, "intermediate_size": 136, "vocab_size": 160, "pad_token_id": 0}
OSS = {**TEXT, "hidden_size": 32, "head_dim": 8, "intermediate_size": 32, "num_local_experts": 3}
LOCK = "permutation:sites=[vo,mlp]"
OSS |= {"num_experts_per_tok": 2, "bos_token_id": 1, "eos_token_id": 2, "pad_token_id": 0}


def in_half(network: Any) -> Any:
    """Its weights in bfloat16; what it computes of positions stays as it is."""
    for parameter in network.parameters():
        parameter.data = parameter.data.to(torch.bfloat16)
    return network.eval()


def dense() -> tuple[Any, dict[str, Tensor], dict[str, Any]]:
    """A small network whose weights are FP8 times scales, those codes and scales, and what its config says of them."""
    from transformers import Qwen3Config, Qwen3ForCausalLM

    torch.manual_seed(0)
    network = in_half(Qwen3ForCausalLM(Qwen3Config(**QWEN, max_position_embeddings=32)))
    stored = dict(network.state_dict())
    for name in [name for name in stored if name.endswith("_proj.weight")]:
        rows, columns = stored[name].shape
        grid = 0.01 + torch.rand(-(-rows // 128), -(-columns // 128))
        scales = spread(grid, stored[name].shape, 128, 128)
        coded = (stored[name].double() / scales).to(torch.float8_e4m3fn)
        stored |= {name: coded, f"{name}_scale_inv": grid}
        network.get_submodule(name.removesuffix(".weight")).weight.data = (coded.double() * scales).float().bfloat16()
    return network, stored, BLOCKS


def mixture() -> tuple[Any, dict[str, Tensor], dict[str, Any]]:
    """The same of a mixture whose experts are MXFP4."""
    from transformers import GptOssConfig, GptOssForCausalLM
    from transformers.integrations.mxfp4 import convert_moe_packed_tensors

    torch.manual_seed(0)
    rope = {"rope_type": "default", "rope_theta": 1e4}
    config = GptOssConfig(**OSS, max_position_embeddings=32, rope_parameters=rope)
    network = in_half(GptOssForCausalLM(config))
    stored = dict(network.state_dict())
    for name in [name for name in stored if name.endswith(("gate_up_proj", "down_proj"))]:
        experts, columns, rows = stored.pop(name).shape
        coded = microscaled(experts, rows, columns // 32, 118, 123)
        stored |= {f"{name}_{end}": tensor for end, tensor in zip(("blocks", "scales"), coded.values(), strict=True)}
        module, _, last = name.rpartition(".")
        getattr(network.get_submodule(module), last).data = convert_moe_packed_tensors(*coded.values())
    return network, stored, {"quant_method": "mxfp4", "modules_to_not_convert": ["lm_head"]}


def published(path: Path, made: tuple[Any, dict[str, Tensor], dict[str, Any]], *, shards: bool = True) -> Any:
    """Writes it as such models are published, and gives the network that it stands for."""
    network, stored, said = made
    config = {
        **network.config.to_dict(),
        "dtype": "bfloat16",
        "architectures": [type(network).__name__],
        "quantization_config": said,
    }
    folder(path, {name: tensor.contiguous() for name, tensor in stored.items()}, config, shards=shards)
    (path / "hf_quant_config.json").write_text("{}")
    return network


def logits(network: Any) -> Tensor:
    network.set_experts_implementation("eager")  # the other knows no float64
    with torch.no_grad():
        return network.double()(torch.arange(1, 13).reshape(1, 12)).logits


@pytest.mark.parametrize("made", [dense, mixture])
def test_what_is_written_loads_in_transformers_and_computes_the_same(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, shell: Callable[..., Any], made: Callable[[], Any]
) -> None:
    from transformers import AutoModelForCausalLM

    monkeypatch.chdir(tmp_path)
    expected = logits(published(Path("model"), made()))
    words = ["protect", LOCK, "model", "--key", "key", "--out", "out"]
    told = shell(*words)
    assert (told.code, "--dequantise" in told.err) == (2, True)
    told = shell(*words, "--dequantise")
    assert told.code == 0, told.err
    assert "quantised" in told.err
    network, info = AutoModelForCausalLM.from_pretrained("out", dtype="auto", output_loading_info=True)
    assert not any(info.values())
    assert {parameter.dtype for parameter in network.parameters()} == {torch.bfloat16}
    assert torch.allclose(logits(network), expected, rtol=0, atol=1e-9 * float(expected.abs().max()))
    config = json.loads(Path("out/config.json").read_text())
    assert "quantization_config" not in config
    assert not Path("out/hf_quant_config.json").exists()
    index = json.loads(Path("out/model.safetensors.index.json").read_text())
    assert index["metadata"]["total_size"] == sum(p.numel() * 2 for p in network.parameters())
    before = json.loads(Path("model/model.safetensors.index.json").read_text())["weight_map"]
    assert all(before.get(name, before.get(f"{name}_blocks")) == file for name, file in index["weight_map"].items())


@pytest.mark.parametrize("made", [dense, mixture])
def test_attack_audit_and_merge_read_a_quantised_base(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, shell: Callable[..., Any], made: Callable[[], Any]
) -> None:
    monkeypatch.chdir(tmp_path)
    network = published(Path("base"), made(), shards=False)
    with torch.no_grad():
        for name, weight in network.named_parameters():
            if name.endswith("o_proj.weight"):
                weight.add_(0.0005 * torch.randn(weight.shape).to(weight.dtype))
    network.save_pretrained("expert")
    assert shell("protect", LOCK, "expert", "--key", "key", "--out", "locked").code == 0
    for words in (
        ("attack", "gauge-fit", "locked", "--base", "base", "--out", "fitted"),
        ("audit", "locked", "--base", "base"),
        ("merge", "task-arithmetic:coefficient=1.0", "--base", "base", "--expert", "expert", "--out", "merged"),
    ):
        told = shell(*words)
        assert (told.code, "--dequantise" in told.err) == (2, True)
        told = shell(*words, "--dequantise")
        assert told.code == 0, told.err
    plain, merged, fitted = (Checkpoint.open(path) for path in ("expert", "merged", "fitted"))
    assert set(merged) == set(plain) == set(fitted)
    assert "quantization_config" not in merged.config
    for name in plain:
        assert torch.allclose(merged[name].double(), plain[name].double(), rtol=0.02, atol=1e-3)
        assert torch.allclose(fitted[name].double(), plain[name].double(), rtol=0.02, atol=1e-3)


def test_protect_stores_in_the_dtype_that_is_asked_for(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, shell: Callable[..., Any]
) -> None:
    monkeypatch.chdir(tmp_path)
    made = dense()
    stored = made[1]
    published(Path("model"), made)
    words = ("--key", "key", "--out", "out", "--dequantise", "--dtype", "float32")
    assert shell("protect", "permutation:sites=[mlp]", "model", *words).code == 0
    name = "model.layers.0.self_attn.q_proj.weight"
    factors = spread(stored[f"{name}_scale_inv"], stored[name].shape, 128, 128)
    found = Checkpoint.open("out")
    assert torch.equal(found[name], (stored[name].double() * factors).float())
    assert {found.dtype(name) for name in found} == {torch.float32}
    assert found.config["dtype"] == "float32"


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("dora", [False, True])
def test_an_adapter_is_merged_into_what_its_quantised_base_stands_for(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, shell: Callable[..., Any], dora: bool
) -> None:
    import peft
    from transformers import AutoModelForCausalLM

    monkeypatch.chdir(tmp_path)
    network = published(Path("base"), dense())
    model = peft.get_peft_model(network, peft.LoraConfig(r=2, target_modules=["q_proj", "down_proj"], use_dora=dora))
    with torch.no_grad():
        for name, weight in model.named_parameters():
            if "lora_" in name:
                weight.add_(0.05 * torch.randn_like(weight))
    model.save_pretrained("adapter")
    words = ("protect", LOCK, "adapter", "--base", "base", "--key", "key", "--out", "out", "--dtype", "float32")
    told = shell(*words)
    assert (told.code, "--dequantise" in told.err) == (2, True)
    assert shell(*words, "--dequantise").code == 0
    found, expected = AutoModelForCausalLM.from_pretrained("out"), logits(model)
    assert found.dtype == torch.float32
    assert torch.allclose(logits(found), expected, rtol=0, atol=0.02 * float(expected.abs().max()))
