"""Adapters of every kind that PEFT makes, on small bases."""

from __future__ import annotations

import json
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

import peft
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from redteam.checkpoint import Checkpoint

TEXT = {"hidden_size": 24, "num_hidden_layers": 2, "num_attention_heads": 4, "num_key_value_heads": 2}
TEXT |= {"vocab_size": 30, "max_position_embeddings": 32, "pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2}
MIXTURE = TEXT | {"num_experts_per_tok": 2, "intermediate_size": 20}
VLM_TEXT = TEXT | {"model_type": "llama", "intermediate_size": 20}
VLM_VISION = {"model_type": "clip_vision_model", "hidden_size": 24, "intermediate_size": 20, "num_hidden_layers": 2}
VLM_VISION |= {"num_attention_heads": 4, "image_size": 8, "patch_size": 4}
ROPE = {"rope_parameters": {"rope_type": "default", "rope_theta": 1e4}}
NETWORKS: dict[str, tuple[str, dict[str, Any]]] = {
    "llama": ("Llama", TEXT | {"intermediate_size": 20}),
    "tied": ("Llama", TEXT | {"intermediate_size": 20, "tie_word_embeddings": True}),
    "tied as an MLP": ("Llama", TEXT | {"intermediate_size": TEXT["vocab_size"], "tie_word_embeddings": True}),
    "qwen2": ("Qwen2", TEXT | {"intermediate_size": 20}),
    "gpt2": ("GPT2", {"n_embd": 24, "n_layer": 2, "n_head": 4, "vocab_size": 30, "n_positions": 32}),
    "llava": ("Llava", {"text_config": VLM_TEXT, "vision_config": VLM_VISION, "image_token_index": 29}),
    "mixtral": ("Mixtral", MIXTURE | {"num_local_experts": 3}),
    "qwen3_moe": ("Qwen3Moe", MIXTURE | {"num_experts": 3, "moe_intermediate_size": 12, "head_dim": 6}),
    "gpt_oss": ("GptOss", MIXTURE | {"num_local_experts": 3, "head_dim": 6, **ROPE}),
}
PROJECTIONS = ["q_proj", "down_proj"]
EXPERTS = ["experts.gate_up_proj", "experts.down_proj"]


def lora(**settings: Any) -> peft.LoraConfig:
    return peft.LoraConfig(**{"r": 2, "lora_alpha": 6, "target_modules": PROJECTIONS, **settings})


Change = Callable[[dict[str, Tensor]], dict[str, Tensor]]
ADAPTERS: dict[str, tuple[str, Callable[[], Any]]] = {
    "plain": ("llama", lora),
    "rank-stabilised": ("llama", lambda: lora(use_rslora=True)),
    "patterns": ("llama", lambda: lora(rank_pattern={"down_proj": 3}, alpha_pattern={"layers.1.self_attn.q_proj": 5})),
    "embedding and head": ("llama", lambda: lora(target_modules=["embed_tokens", "lm_head", "q_proj"])),
    "fan in": ("gpt2", lambda: lora(target_modules=["c_attn", "c_proj"], fan_in_fan_out=True)),
    "DoRA": ("llama", lambda: lora(use_dora=True)),
    "DoRA, patterns": (
        "llama",
        lambda: lora(use_dora=True, rank_pattern={"down_proj": 3}, alpha_pattern={"q_proj": 5}),
    ),
    "DoRA, rank-stabilised": ("llama", lambda: lora(use_dora=True, use_rslora=True)),
    "DoRA, embedding": ("llama", lambda: lora(use_dora=True, target_modules=["embed_tokens", "q_proj"])),
    "DoRA, fan in": ("gpt2", lambda: lora(use_dora=True, target_modules=["c_attn", "c_proj"], fan_in_fan_out=True)),
    "DoRA, whole modules": ("llama", lambda: lora(use_dora=True, modules_to_save=["lm_head", "norm"])),
    "DoRA, by a pattern": ("llama", lambda: lora(use_dora=True, target_modules=r".*\.self_attn\.(q_proj|v_proj)")),
    "DoRA, some layers": ("llama", lambda: lora(use_dora=True, layers_to_transform=[1])),
    "VLM": ("llava", lambda: lora(target_modules=r".*language_model.*\.(q_proj|down_proj)")),
    "VLM, DoRA": ("llava", lambda: lora(use_dora=True, target_modules=["q_proj", "linear_1"])),
    "biases": ("qwen2", lambda: lora(lora_bias=True, target_modules=["q_proj", "k_proj"])),
    "biases trained": ("qwen2", lambda: lora(use_dora=True, bias="all", target_modules=["q_proj", "k_proj"])),
    "tokens": ("llama", lambda: lora(trainable_token_indices=[3, 7])),
    "tokens by name": ("llama", lambda: lora(trainable_token_indices={"embed_tokens": [3, 7]})),
    "tokens, tied": ("tied", lambda: lora(trainable_token_indices=[3, 7])),
    "tokens alone": ("llama", lambda: peft.TrainableTokensConfig(target_modules=["embed_tokens"], token_indices=[5])),
    "parameters": ("llama", lambda: lora(target_modules=[], target_parameters=["q_proj.weight"])),
    "experts, packed": ("gpt_oss", lambda: lora(target_modules=["q_proj"], target_parameters=EXPERTS)),
    "experts, one by one": ("qwen3_moe", lambda: lora(target_modules=["q_proj"], target_parameters=EXPERTS)),
    "experts, older names": ("mixtral", lambda: lora(target_modules=["q_proj"], target_parameters=EXPERTS)),
    "experts, as PEFT converts them": ("mixtral", lambda: lora(target_modules=["w1", "w2", "w3", "q_proj"])),
    "experts, ranks": (
        "qwen3_moe",
        lambda: lora(target_modules=[], target_parameters=EXPERTS, rank_pattern={"experts.down_proj": 3}),
    ),
    "router and some of the experts": (
        "qwen3_moe",
        lambda: lora(target_modules=["q_proj"], target_parameters=["mlp.gate.weight", "experts.down_proj"]),
    ),
    "router and experts, packed": (
        "gpt_oss",
        lambda: lora(target_modules=["q_proj"], target_parameters=["mlp.router.weight", *EXPERTS]),
    ),
    "as many neurons as tokens": ("tied as an MLP", lambda: lora(target_modules=["up_proj", "q_proj"])),
    "LoHa": ("llama", lambda: peft.LoHaConfig(r=2, alpha=6, target_modules=PROJECTIONS, rank_pattern={"q_proj": 3})),
    "LoKr": ("llama", lambda: peft.LoKrConfig(r=2, alpha=6, target_modules=PROJECTIONS)),
    "IA3": ("qwen2", lambda: peft.IA3Config(target_modules=["k_proj", "down_proj"], feedforward_modules=["down_proj"])),
    "OFT": ("llama", lambda: peft.OFTConfig(oft_block_size=4, target_modules=PROJECTIONS)),
}


@cache
def _weights(kind: str) -> tuple[Any, dict[str, Tensor]]:
    network = _blank(kind)
    torch.manual_seed(0)
    return network.config, {name: torch.randn(w.shape) / 5 for name, w in network.state_dict().items()}


def _blank(kind: str) -> Any:
    import transformers

    name, settings = NETWORKS[kind]
    config = getattr(transformers, f"{name}Config")(**settings)
    head = {"GPT2": "LMHeadModel", "Llava": "ForConditionalGeneration"}.get(name, "ForCausalLM")
    return getattr(transformers, f"{name}{head}")(config)


def fresh(kind: str) -> Any:
    """A small network with weights of its own, always the same."""
    network = _blank(kind)
    network.load_state_dict(_weights(kind)[1])
    network.tie_weights()
    return network.eval()


def trained(path: Path, kind: str, config: Any) -> Any:
    """Writes a base and an adapter for it whose weights are not those it starts with; gives PEFT's network."""
    base = fresh(kind)
    base.save_pretrained(path / "base")
    model = peft.get_peft_model(base, config)
    torch.manual_seed(1)
    with torch.no_grad():
        for weight in model.parameters():
            if weight.requires_grad:
                weight.add_(0.1 * torch.randn_like(weight))
    model.save_pretrained(path / "adapter")
    return model.eval()


def opened(path: Path, dtype: torch.dtype | None = None) -> Checkpoint:
    base = Checkpoint.open(path / "base")
    return Checkpoint.open(path / "adapter", base=base if dtype is None else base.to(dtype))


def changed(
    path: Path, change: Callable[[dict[str, Tensor]], dict[str, Tensor]] | None = None, **settings: Any
) -> None:
    """Rewrites an adapter's tensors and config."""
    place = path / "adapter" / "adapter_model.safetensors"
    if change is not None:
        save_file(change(load_file(place)), place)
    config = path / "adapter" / "adapter_config.json"
    config.write_text(json.dumps({**json.loads(config.read_text()), **settings}))


def without(*parts: str) -> Change:
    return lambda tensors: {n: t for n, t in tensors.items() if not any(part in n for part in parts)}


def logits(network: Any) -> Tensor:
    with torch.no_grad():
        return network(torch.arange(1, 13).reshape(1, 12)).logits  # type: ignore[no-any-return]
