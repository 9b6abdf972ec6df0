"""Quantised folders and adapters as reports have them: what cannot be read right is refused by name."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from redteam.checkpoint import Checkpoint
from tests.published.conftest import COMMANDS, SMALL, Shell, made, put, refused, tuned


@pytest.fixture(scope="module")
def llama() -> Checkpoint:
    import transformers

    return made("LlamaForCausalLM", transformers.LlamaConfig(**SMALL))


SAID: dict[str, dict[str, Any]] = {
    "bitsandbytes": {"quant_method": "bitsandbytes", "load_in_4bit": True, "bnb_4bit_quant_type": "nf4"},
    "said nowhere": {},
}


@pytest.mark.parametrize("command", COMMANDS)
@pytest.mark.parametrize("said", SAID)
def test_codes_in_one_shard_and_their_scales_in_another(
    llama: Checkpoint, here: Path, shell: Shell, command: str, said: str
) -> None:
    """vllm#11802, as far as its keyword goes: 4-bit codes, two a byte, whose absmax lies in another file."""
    put("base", llama, llama.config)
    config = {**llama.config, **({"quantization_config": SAID[said]} if SAID[said] else {})}
    put("expert", tuned(llama), config)
    name = "model.layers.0.mlp.up_proj.weight"
    tensors = load_file("expert/model.safetensors")
    numbers = tensors[name].numel()
    codes = {**tensors, name: torch.randint(0, 256, (numbers // 2, 1), dtype=torch.uint8)}
    scales = {f"{name}.absmax": torch.ones(numbers // 64), f"{name}.quant_map": torch.linspace(-1, 1, 16)}
    Path("expert/model.safetensors").unlink()
    for file, part in (("model-00001-of-00002", codes), ("model-00002-of-00002", scales)):
        save_file(part, f"expert/{file}.safetensors", metadata={"format": "pt"})
    place = dict.fromkeys(codes, "model-00001-of-00002.safetensors")
    place |= dict.fromkeys(scales, "model-00002-of-00002.safetensors")
    Path("expert/model.safetensors.index.json").write_text(json.dumps({"metadata": {}, "weight_map": place}))
    told = refused(shell, *COMMANDS[command])
    assert "quantised" in told
    assert "bitsandbytes" in told
    assert "codes, not numbers" in told


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("version", ["0.18.1", None, "0.19.0"])
def test_factors_of_experts_that_fit_both_ways(here: Path, shell: Shell, version: str | None) -> None:
    """peft#3449, as far as its keyword goes: what PEFT turned round in 0.19 fits where experts are square."""
    import peft
    import transformers

    sizes = {**SMALL, "num_experts": 3, "num_experts_per_tok": 2, "moe_intermediate_size": 16, "head_dim": 8}
    mixture = made("Qwen3MoeForCausalLM", transformers.Qwen3MoeConfig(**sizes))
    put("base", mixture, mixture.config)
    network = transformers.Qwen3MoeForCausalLM.from_pretrained("base")
    assert tuple(network.get_parameter("model.layers.0.mlp.experts.gate_up_proj").shape) == (3, 32, 32)
    parameter = "experts.gate_up_proj"
    settings = peft.LoraConfig(r=2, target_modules=["q_proj"], target_parameters=[parameter], init_lora_weights=False)
    peft.get_peft_model(network, settings).save_pretrained("expert")
    file = Path("expert/adapter_config.json")
    file.write_text(json.dumps({**json.loads(file.read_text()), "peft_version": version}))
    words = ("merge", "linear", "--base", "base", "--expert", "expert", "--out", "out")
    if version == "0.19.0":
        assert shell(*words).code == 0
        return
    told = refused(shell, *words)
    assert "before 0.19" in told
    assert "gate_up_proj" in told
