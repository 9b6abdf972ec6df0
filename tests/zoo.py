"""A small random network of every architecture that is known, and what it computes in float64 throughout."""

from __future__ import annotations

import tempfile
from collections.abc import Mapping
from functools import cache, cached_property
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from redteam.checkpoint import Checkpoint
from redteam.describe.trials import drawn
from redteam.lifted import lifted

TEXT = {
    "hidden_size": 24,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "intermediate_size": 20,
    "vocab_size": 30,
    "max_position_embeddings": 32,
    "bos_token_id": 1,
    "eos_token_id": 2,
    "pad_token_id": 0,
}
GROUPED = TEXT | {"num_key_value_heads": 2}  # two query heads to a key/value head
PICTURES = {
    "hidden_size": 24,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "intermediate_size": 20,
    "image_size": 8,
    "patch_size": 4,
}
TOWERS = {"text_config": TEXT, "vision_config": PICTURES}
LATENT = TEXT | {
    "num_key_value_heads": 4,
    "q_lora_rank": 8,
    "kv_lora_rank": 10,
    "qk_nope_head_dim": 6,
    "qk_rope_head_dim": 4,
    "v_head_dim": 8,
    "n_routed_experts": 4,
    "num_experts_per_tok": 2,
    "n_group": 1,
    "topk_group": 1,
    "moe_intermediate_size": 12,
    "first_k_dense_replace": 1,
}
T5 = {"d_model": 24, "d_kv": 6, "d_ff": 20, "num_layers": 2, "num_heads": 4, "vocab_size": 30, "pad_token_id": 0}
OPEN_CLIP = {
    "embed_dim": 16,
    "vision_cfg": {"image_size": 8, "patch_size": 4, "width": 24, "layers": 2, "head_width": 6},
    "text_cfg": {"context_length": 9, "vocab_size": 30, "width": 24, "heads": 4, "layers": 2},
}

_DESCRIBED: Mapping[str, tuple[str, str, Mapping[str, Any]]] = {
    "bert": ("BertForSequenceClassification", "BertConfig", TEXT),
    "roberta": ("RobertaForSequenceClassification", "RobertaConfig", TEXT),
    "vit": ("ViTForImageClassification", "ViTConfig", PICTURES),
    "deit": ("DeiTForImageClassification", "DeiTConfig", PICTURES),
    "clip": ("CLIPModel", "CLIPConfig", {**TOWERS, "projection_dim": 16}),
    "siglip": ("SiglipModel", "SiglipConfig", TOWERS),
    "gpt2": (
        "GPT2LMHeadModel",
        "GPT2Config",
        {"n_embd": 24, "n_layer": 2, "n_head": 4, "vocab_size": 30, "n_positions": 32}
        | {"bos_token_id": 1, "eos_token_id": 2},
    ),
    "gpt-neox": (
        "GPTNeoXForCausalLM",
        "GPTNeoXConfig",
        TEXT
        | {"hidden_size": 32}  # heads of 8 dimensions, of which 4 are turned
        | {"rope_parameters": {"rope_type": "default", "rope_theta": 10000.0, "partial_rotary_factor": 0.5}},
    ),
    "llama": ("LlamaForCausalLM", "LlamaConfig", GROUPED),
    "mistral": ("MistralForCausalLM", "MistralConfig", GROUPED),
    "qwen2": ("Qwen2ForCausalLM", "Qwen2Config", GROUPED),
    "qwen3": ("Qwen3ForCausalLM", "Qwen3Config", GROUPED | {"head_dim": 8}),
    "gemma2": ("Gemma2ForCausalLM", "Gemma2Config", GROUPED | {"head_dim": 8}),
    "gemma3": ("Gemma3ForCausalLM", "Gemma3TextConfig", GROUPED | {"head_dim": 8}),
    "gemma3-vision": (
        "Gemma3ForConditionalGeneration",
        "Gemma3Config",
        {
            "text_config": GROUPED | {"head_dim": 8},
            "vision_config": PICTURES,
            "mm_tokens_per_image": 4,
            "image_token_index": 29,
            "boi_token_index": 28,
            "eoi_token_index": 27,
        },
    ),
    "olmo2": ("Olmo2ForCausalLM", "Olmo2Config", GROUPED),
    "phi3": ("Phi3ForCausalLM", "Phi3Config", GROUPED),
    "cohere": ("CohereForCausalLM", "CohereConfig", GROUPED),
    "t5": ("T5ForConditionalGeneration", "T5Config", T5),
    "flan-t5": ("T5ForConditionalGeneration", "T5Config", T5 | {"feed_forward_proj": "gated-gelu"}),
    "mixtral": ("MixtralForCausalLM", "MixtralConfig", GROUPED | {"num_local_experts": 4}),
    "resnet": (
        "ResNetForImageClassification",
        "ResNetConfig",
        {"embedding_size": 8, "hidden_sizes": [24, 32], "depths": [2, 1], "layer_type": "bottleneck"},
    ),
    "open-clip": ("", "", OPEN_CLIP),
}
RELATIVES: Mapping[str, tuple[str, str, Mapping[str, Any]]] = {
    "xlm-roberta": ("XLMRobertaForSequenceClassification", "XLMRobertaConfig", TEXT),
    "camembert": ("CamembertForSequenceClassification", "CamembertConfig", TEXT),
    "electra": ("ElectraForSequenceClassification", "ElectraConfig", TEXT | {"embedding_size": 24}),
    "ernie": ("ErnieForSequenceClassification", "ErnieConfig", TEXT),
    "mpnet": ("MPNetForSequenceClassification", "MPNetConfig", TEXT),
    "distilbert": (
        "DistilBertForSequenceClassification",
        "DistilBertConfig",
        {"vocab_size": 30, "dim": 24, "n_layers": 2, "n_heads": 4, "hidden_dim": 20, "max_position_embeddings": 32},
    ),
    "dinov2": (
        "Dinov2ForImageClassification",
        "Dinov2Config",
        {key: value for key, value in PICTURES.items() if key != "intermediate_size"},
    ),
    "helium": ("HeliumForCausalLM", "HeliumConfig", GROUPED | {"head_dim": 6}),
    "ernie4-5": ("Ernie4_5ForCausalLM", "Ernie4_5Config", GROUPED | {"head_dim": 8}),
    "starcoder2": ("Starcoder2ForCausalLM", "Starcoder2Config", GROUPED),
    "phi": ("PhiForCausalLM", "PhiConfig", GROUPED | {"hidden_size": 32}),
    "glm": ("GlmForCausalLM", "GlmConfig", GROUPED | {"head_dim": 8}),
    "glm4": ("Glm4ForCausalLM", "Glm4Config", GROUPED | {"head_dim": 8}),
    "apertus": ("ApertusForCausalLM", "ApertusConfig", GROUPED),
    "gpt-neo": (
        "GPTNeoForCausalLM",
        "GPTNeoConfig",
        {"vocab_size": 30, "hidden_size": 24, "num_layers": 2, "num_heads": 4, "intermediate_size": 20}
        | {"max_position_embeddings": 32, "attention_types": [[["global"], 2]], "bos_token_id": 1, "eos_token_id": 2},
    ),
    "qwen3-moe": (
        "Qwen3MoeForCausalLM",
        "Qwen3MoeConfig",
        GROUPED | {"head_dim": 8, "num_experts": 4, "num_experts_per_tok": 2, "moe_intermediate_size": 20},
    ),
    "granite": ("GraniteForCausalLM", "GraniteConfig", GROUPED),
    "smollm3": ("SmolLM3ForCausalLM", "SmolLM3Config", GROUPED),
    "nemotron": ("NemotronForCausalLM", "NemotronConfig", GROUPED | {"hidden_size": 32}),
    "arcee": ("ArceeForCausalLM", "ArceeConfig", GROUPED),
    "stablelm": ("StableLmForCausalLM", "StableLmConfig", GROUPED | {"hidden_size": 32}),
    "ministral3": ("Ministral3ForCausalLM", "Ministral3Config", GROUPED),
    "seed-oss": ("SeedOssForCausalLM", "SeedOssConfig", GROUPED | {"head_dim": 8}),
    "gemma": ("GemmaForCausalLM", "GemmaConfig", GROUPED | {"head_dim": 8}),
    "exaone4": ("Exaone4ForCausalLM", "Exaone4Config", GROUPED),
    "olmo3": ("Olmo3ForCausalLM", "Olmo3Config", GROUPED),
    "cohere2": ("Cohere2ForCausalLM", "Cohere2Config", GROUPED),
    "mt5": ("MT5ForConditionalGeneration", "MT5Config", T5 | {"feed_forward_proj": "gated-gelu"}),
    "umt5": ("UMT5ForConditionalGeneration", "UMT5Config", T5 | {"feed_forward_proj": "gated-gelu"}),
    "phimoe": ("PhimoeForCausalLM", "PhimoeConfig", GROUPED | {"num_local_experts": 4}),
    "deepseek-v3": ("DeepseekV3ForCausalLM", "DeepseekV3Config", LATENT),
}
"""Of the types that differ from a described one in a detail: fast tests see whether their locks keep the function and
come off, `make acceptance` the rest."""
NETWORKS = {**_DESCRIBED, **RELATIVES}
THOROUGH = [pytest.param(name, marks=[pytest.mark.slow] if name in RELATIVES else []) for name in NETWORKS]


class Network:
    """A checkpoint, and how far another of the same shapes computes something else."""

    def __init__(self, name: str, checkpoint: Checkpoint) -> None:
        self.name, self.checkpoint = name, checkpoint
        self.inputs = _inputs(name)
        self.outputs = self.computed(checkpoint)

    @cached_property
    def without_eps(self) -> list[Tensor]:
        """Its outputs where norms divide by the size of what they read and by nothing more."""
        return self.computed(self.checkpoint, eps=False)

    def computed(self, checkpoint: Checkpoint, *, eps: bool = True) -> list[Tensor]:
        """Its logits, or all that it gives where there are none."""
        module = checkpoint.module(torch.float64)
        for part in module.modules() if not eps else ():
            for name in {"eps", "variance_epsilon"} & vars(part).keys():
                setattr(part, name, 0.0)
        with torch.no_grad(), lifted():
            found = module(**self.inputs)
        logits = getattr(found, "logits", None)
        given = [logits] if logits is not None else list(found if isinstance(found, tuple) else found.to_tuple())
        return [x for x in given if isinstance(x, Tensor) and x.is_floating_point() and x.ndim > 1]

    def change(self, other: Checkpoint, *, eps: bool = True) -> float:
        """`max|Δ| / max|output|`, of the output that changes most; with the norms' eps or without it on both sides."""
        pairs = zip(self.computed(other, eps=eps), self.outputs if eps else self.without_eps, strict=True)
        return max(float((here - there).abs().max() / there.abs().max()) for here, there in pairs)


@cache
def network(name: str) -> Network:
    """The network, drawn once."""
    blank = _blank(name)
    return Network(name, Checkpoint.of({n: drawn(n, blank[n]) for n in sorted(blank)}, blank.config))


def _blank(name: str) -> Checkpoint:
    cls, config, settings = NETWORKS[name]
    if name == "open-clip":
        import open_clip

        module = open_clip.CLIP(**settings, output_dict=False)
        return Checkpoint.of(module.state_dict(), {"model_type": "open_clip", "model_cfg": settings})
    import transformers

    with tempfile.TemporaryDirectory() as folder:
        getattr(transformers, cls)(getattr(transformers, config)(**settings)).save_pretrained(folder)
        saved = Checkpoint.open(Path(folder))
        return Checkpoint.of(dict(saved), saved.config)


def _inputs(name: str) -> dict[str, Tensor]:
    draws = np.random.default_rng(1)
    tokens = [torch.from_numpy(draws.integers(3, 30, (3, 9))) for _ in range(2)]
    pictures = torch.from_numpy(draws.standard_normal((3, 3, 8, 8)))
    if name == "open-clip":
        return {"image": pictures, "text": tokens[0]}
    if name in ("vit", "deit", "dinov2", "resnet"):
        return {"pixel_values": pictures}
    if name in ("clip", "siglip"):
        return {"input_ids": tokens[0], "pixel_values": pictures}
    if name == "gemma3-vision":
        ids = tokens[0].clamp(max=26)
        ids[:, 2:6] = 29  # where the picture goes
        return {"input_ids": ids, "pixel_values": pictures}
    return {"input_ids": tokens[0]} | ({"decoder_input_ids": tokens[1]} if "t5" in name else {})
