"""The architectures that are known, by `model_type` of the config; docs/architectures.md says how to add one."""

from __future__ import annotations

from collections.abc import MutableMapping
from dataclasses import replace
from typing import cast

from redteam.anatomy.architecture import Architecture, ArchitectureLike, Stream
from redteam.anatomy.described import BERT, BERT_STREAM, DESCRIBED, LLAMA, MIXTRAL, NO_NORM, VIT

_GPT2 = cast("Architecture", DESCRIBED["gpt2"])
_PHI3 = cast("Architecture", DESCRIBED["phi3"])
_GLM = replace(_PHI3, query=LLAMA.query, key=LLAMA.key, value=LLAMA.value, planes="interleaved")
_QWEN3 = cast("Architecture", DESCRIBED["qwen3"])
_LLAMA_STREAM = cast("Stream", LLAMA.stream)
_CLASSIFIER = replace(BERT_STREAM, heads=("classifier.dense",), others=("classifier.out_proj.*",))

_ENCODERS: dict[str, Architecture] = {
    "electra": replace(
        BERT,
        prefixes=("electra.", ""),
        stream=replace(
            _CLASSIFIER, heads=("classifier.dense", "discriminator_predictions.dense", "generator_predictions.dense")
        ),
    ),
    "ernie": replace(BERT, prefixes=("ernie.", "")),
    "mpnet": replace(
        BERT,
        query="encoder.layer.{layer}.attention.attn.q",
        key="encoder.layer.{layer}.attention.attn.k",
        value="encoder.layer.{layer}.attention.attn.v",
        output="encoder.layer.{layer}.attention.attn.o",
        mlp_norm="encoder.layer.{layer}.attention.LayerNorm",
        prefixes=("mpnet.", ""),
        stream=replace(
            _CLASSIFIER,
            heads=("classifier.dense", "{prefix}pooler.dense"),
            others=("classifier.out_proj.*", "{prefix}encoder.relative_attention_bias.weight"),
        ),
        legal={kind: group for kind, group in NO_NORM.items() if kind != "heads"},  # all layers share a bias by head
    ),
    "distilbert": replace(
        BERT,
        query="transformer.layer.{layer}.attention.q_lin",
        key="transformer.layer.{layer}.attention.k_lin",
        value="transformer.layer.{layer}.attention.v_lin",
        output="transformer.layer.{layer}.attention.out_lin",
        up="transformer.layer.{layer}.ffn.lin1",
        down="transformer.layer.{layer}.ffn.lin2",
        attention_norm="transformer.layer.{previous}.output_layer_norm",
        mlp_norm="transformer.layer.{layer}.sa_layer_norm",
        post_norms=("transformer.layer.{layer}.output_layer_norm",),
        prefixes=("distilbert.", ""),
        layers="n_layers",
        width="dim",
        heads="n_heads",
        neurons="hidden_dim",
        activation=("activation",),
        stream=replace(BERT_STREAM, heads=("pre_classifier", "vocab_transform", "qa_outputs")),
    ),
    "dinov2": replace(
        VIT,
        up="encoder.layer.{layer}.mlp.fc1",
        down="encoder.layer.{layer}.mlp.fc2",
        attention_norm="encoder.layer.{layer}.norm1",
        mlp_norm="encoder.layer.{layer}.norm2",
        layer_scales=("encoder.layer.{layer}.layer_scale1.lambda1", "encoder.layer.{layer}.layer_scale2.lambda1"),
        prefixes=("dinov2.", ""),
        neurons="n_inner",  # which the config lacks: four times the width
        stream=None,  # of which nobody has described the scales of layers
    ),
}

_DECODERS: dict[str, Architecture] = {
    "gemma": replace(LLAMA, tied=True, offset=1.0),
    "helium": replace(LLAMA, planes="interleaved"),
    "ernie4_5": replace(LLAMA, planes="interleaved"),
    "nemotron": replace(LLAMA, centred=True, offset=1.0),
    "stablelm": replace(
        LLAMA,
        centred=True,
        mlp_norm=("layers.{layer}.post_attention_layernorm", "layers.{layer}.input_layernorm"),
        query_norm="layers.{layer}.self_attn.q_layernorm.norms.0",
        key_norm="layers.{layer}.self_attn.k_layernorm.norms.0",
        stream=replace(_LLAMA_STREAM, others=(*_LLAMA_STREAM.others, "*_layernorm.norms.*")),
    ),
    "starcoder2": replace(
        LLAMA, centred=True, tied=True, up="layers.{layer}.mlp.c_fc", gate=None, down="layers.{layer}.mlp.c_proj"
    ),
    "phi": replace(
        LLAMA,
        output="layers.{layer}.self_attn.dense",
        up="layers.{layer}.mlp.fc1",
        gate=None,
        down="layers.{layer}.mlp.fc2",
        mlp_norm="layers.{layer}.input_layernorm",
        final_norm="final_layernorm",
        query_norm="layers.{layer}.self_attn.q_layernorm",
        key_norm="layers.{layer}.self_attn.k_layernorm",
        centred=True,
        stream=replace(_LLAMA_STREAM, norms=("{prefix}final_layernorm",)),
    ),
    "glm": _GLM,
    "glm4": replace(_GLM, post_norms=("layers.{layer}.post_self_attn_layernorm", "layers.{layer}.post_mlp_layernorm")),
    "apertus": replace(
        _QWEN3,
        gate=None,
        attention_norm="layers.{layer}.attention_layernorm",
        mlp_norm="layers.{layer}.feedforward_layernorm",
        stream=replace(_LLAMA_STREAM, others=(*_LLAMA_STREAM.others, "*.mlp.act_fn.*")),
    ),
    "gpt_neo": replace(
        _GPT2,
        query="h.{layer}.attn.attention.q_proj",
        key="h.{layer}.attn.attention.k_proj",
        value="h.{layer}.attn.attention.v_proj",
        output="h.{layer}.attn.attention.out_proj",
        layers="num_layers",
        width="hidden_size",
        heads="num_heads",
        neurons="intermediate_size",
        transposed=False,
    ),
    "phimoe": replace(MIXTRAL, centred=True),
    "qwen3_moe": replace(
        _QWEN3,
        up="layers.{layer}.mlp.experts.{expert}.up_proj",
        gate="layers.{layer}.mlp.experts.{expert}.gate_proj",
        down="layers.{layer}.mlp.experts.{expert}.down_proj",
        router="layers.{layer}.mlp.gate",
        neurons="moe_intermediate_size",
    ),
}

_SAME = {
    "roberta": ("xlm-roberta", "camembert"),
    "llama": ("granite", "smollm3", "arcee"),
    "mistral": ("ministral3",),
    "qwen2": ("seed_oss",),
    "olmo2": ("exaone4", "olmo3"),
    "cohere": ("cohere2",),
    "t5": ("mt5", "umt5"),
}
"""Model types whose checkpoints look like another's, whatever else their code does."""

ARCHITECTURES: MutableMapping[str, Architecture | ArchitectureLike] = {
    **DESCRIBED,
    **_ENCODERS,
    **_DECODERS,
    **{name: DESCRIBED[like] for like, names in _SAME.items() for name in names},
}
"""Hugging Face names, as they are saved, and open_clip's."""
