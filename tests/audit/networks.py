"""Small random networks of the architectures that people publish, as transformers saves them, in float64."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import torch

from redteam.checkpoint import Checkpoint

READS: dict[str, Any] = {
    "hidden_size": 32,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "intermediate_size": 40,
    "vocab_size": 300,
    "max_position_embeddings": 40,
    "pad_token_id": 0,
    "bos_token_id": 1,
    "eos_token_id": 2,
}
SEES: dict[str, Any] = {**READS, "image_size": 16, "patch_size": 4}
GROUPED: dict[str, Any] = {**READS, "num_key_value_heads": 2, "head_dim": 8}
TOWERS: dict[str, Any] = {"text_config": READS, "vision_config": SEES}

NETWORKS: dict[str, tuple[str, dict[str, Any]]] = {
    "llama": ("LlamaForCausalLM", GROUPED),
    "qwen3": ("Qwen3ForCausalLM", GROUPED),
    "mixtral": ("MixtralForCausalLM", {**GROUPED, "num_local_experts": 4, "num_experts_per_tok": 2}),
    "t5": ("T5ForConditionalGeneration", {"d_model": 32, "d_kv": 8, "d_ff": 40, "num_layers": 2, "num_heads": 4}),
    "clip": ("CLIPModel", {**TOWERS, "projection_dim": 24}),
    "resnet": ("ResNetForImageClassification", {"embedding_size": 8, "hidden_sizes": [16, 32], "depths": [2, 2]}),
    "qwen2": ("Qwen2ForCausalLM", GROUPED),
    "gemma2": ("Gemma2ForCausalLM", GROUPED),
    "gemma3_text": ("Gemma3ForCausalLM", GROUPED),
    "olmo2": ("Olmo2ForCausalLM", GROUPED),
    "phi3": ("Phi3ForCausalLM", GROUPED),
    "cohere": ("CohereForCausalLM", GROUPED),
    "gpt2": ("GPT2LMHeadModel", {"n_embd": 32, "n_layer": 2, "n_head": 4, "vocab_size": 300, "n_positions": 40}),
    "gpt_neox": ("GPTNeoXForCausalLM", {**READS, "rotary_pct": 0.5}),
    "roberta": ("RobertaForMaskedLM", READS),
    "siglip": ("SiglipModel", TOWERS),
}
"""Model type → class and settings; the first of them have between them every kind of site."""


def network(kind: str, folder: Path) -> Checkpoint:
    """Weights of deviation 1/√in, gains about 1, nothing left at 0."""
    import transformers

    name, settings = NETWORKS[kind]
    blank = getattr(transformers, name)(transformers.AutoConfig.for_model(kind, **settings))
    blank.save_pretrained(folder)
    saved, draws, tensors = Checkpoint.open(folder), np.random.default_rng(0), {}
    for tensor in sorted(saved):
        shape = saved.shape(tensor)
        noise = torch.from_numpy(np.asarray(draws.standard_normal(shape)))
        gain = len(shape) == 1 and tensor.endswith("weight")
        small = 0.3 if len(shape) < 2 else float(np.prod(shape[1:])) ** -0.5
        tensors[tensor] = 1 + 0.3 * noise if gain else small * noise
    return Checkpoint.of({n: tensors[n] if saved.dtype(n).is_floating_point else saved[n] for n in saved}, saved.config)
