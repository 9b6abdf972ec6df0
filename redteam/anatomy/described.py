"""Model types that are described tensor by tensor; `catalog` has those that differ from one of them in a detail."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

from redteam.anatomy.architecture import PRE_NORM, Architecture, ArchitectureLike, Stream
from redteam.anatomy.convolutional import RESNET
from redteam.anatomy.network import Network

NO_NORM = {kind: group for kind, group in PRE_NORM.items() if kind != "norm"}

VIT = Architecture(
    query="encoder.layer.{layer}.attention.attention.query",
    key="encoder.layer.{layer}.attention.attention.key",
    value="encoder.layer.{layer}.attention.attention.value",
    output="encoder.layer.{layer}.attention.output.dense",
    up="encoder.layer.{layer}.intermediate.dense",
    down="encoder.layer.{layer}.output.dense",
    attention_norm="encoder.layer.{layer}.layernorm_before",
    mlp_norm="encoder.layer.{layer}.layernorm_after",
    prefixes=("vit.", "deit.", ""),
    stream=Stream(
        embeddings=tuple(
            "{prefix}embeddings." + name for name in ("cls_token", "distillation_token", "position_embeddings")
        ),
        writes=("{prefix}embeddings.patch_embeddings.projection",),
        norms=("{prefix}layernorm",),
        heads=("classifier", "cls_classifier", "distillation_classifier", "{prefix}pooler.dense"),
    ),
)

BERT_STREAM = Stream(
    embeddings=tuple(
        "{prefix}embeddings." + name + "_embeddings.weight" for name in ("word", "position", "token_type")
    ),
    heads=("{prefix}pooler.dense",),
    others=("classifier.*", "{prefix}embeddings.position_ids"),
)
BERT = Architecture(
    query="encoder.layer.{layer}.attention.self.query",
    key="encoder.layer.{layer}.attention.self.key",
    value="encoder.layer.{layer}.attention.self.value",
    output="encoder.layer.{layer}.attention.output.dense",
    up="encoder.layer.{layer}.intermediate.dense",
    down="encoder.layer.{layer}.output.dense",
    attention_norm="encoder.layer.{previous}.output.LayerNorm",
    first_norm="embeddings.LayerNorm",
    mlp_norm=(
        "encoder.layer.{layer}.crossattention.output.LayerNorm",
        "encoder.layer.{layer}.attention.output.LayerNorm",
    ),
    post_norms=("encoder.layer.{layer}.output.LayerNorm",),
    post_norm=True,
    prefixes=("bert.", ""),
    fixed_head_width=True,
    stream=BERT_STREAM,
    legal=NO_NORM,
)

LLAMA = Architecture(
    query="layers.{layer}.self_attn.q_proj",
    key="layers.{layer}.self_attn.k_proj",
    value="layers.{layer}.self_attn.v_proj",
    output="layers.{layer}.self_attn.o_proj",
    up="layers.{layer}.mlp.up_proj",
    down="layers.{layer}.mlp.down_proj",
    gate="layers.{layer}.mlp.gate_proj",
    attention_norm="layers.{layer}.input_layernorm",
    mlp_norm="layers.{layer}.post_attention_layernorm",
    final_norm="norm",
    readout="lm_head",
    prefixes=("model.", ""),
    centred=False,
    planes="half",
    stream=Stream(
        embeddings=("{prefix}embed_tokens.weight",),
        norms=("{prefix}norm",),
        heads=("lm_head", "score", "classifier"),
        others=("*.rotary_emb.inv_freq",),
    ),
)
MIXTRAL = replace(
    LLAMA,
    up="layers.{layer}.block_sparse_moe.experts.{expert}.w3",
    gate="layers.{layer}.block_sparse_moe.experts.{expert}.w1",
    down="layers.{layer}.block_sparse_moe.experts.{expert}.w2",
    router="layers.{layer}.block_sparse_moe.gate",
)
Q_NORM, K_NORM = "layers.{layer}.self_attn.q_norm", "layers.{layer}.self_attn.k_norm"
GEMMA2 = replace(
    LLAMA,
    mlp_norm="layers.{layer}.pre_feedforward_layernorm",
    post_norms=("layers.{layer}.post_attention_layernorm", "layers.{layer}.post_feedforward_layernorm"),
    tied=True,
    offset=1.0,
)

_GEMMA3 = replace(GEMMA2, query_norm=Q_NORM, key_norm=K_NORM)

_CLIP = Architecture(
    query="encoder.layers.{layer}.self_attn.q_proj",
    key="encoder.layers.{layer}.self_attn.k_proj",
    value="encoder.layers.{layer}.self_attn.v_proj",
    output="encoder.layers.{layer}.self_attn.out_proj",
    up="encoder.layers.{layer}.mlp.fc1",
    down="encoder.layers.{layer}.mlp.fc2",
    attention_norm="encoder.layers.{layer}.layer_norm1",
    mlp_norm="encoder.layers.{layer}.layer_norm2",
    fixed_head_width=True,
)
_CLIP_TEXT = replace(_CLIP, prefixes=("text_model.",), config=("text_config",), part="text")
_CLIP_VISION = replace(
    _CLIP, prefixes=("vision_model.",), config=("vision_config",), part="vision", exposed=("ImageClassification",)
)
_TOWER = {"num_hidden_layers": 12, "hidden_size": 768, "num_attention_heads": 12, "intermediate_size": 3072}
_TEXT = {"num_hidden_layers": 12, "hidden_size": 512, "num_attention_heads": 8, "intermediate_size": 2048}
_TEXT_STREAM = Stream(
    embeddings=("{prefix}embeddings.token_embedding.weight", "{prefix}embeddings.position_embedding.weight"),
    norms=("{prefix}final_layer_norm",),
    heads=("text_projection", "{prefix}head"),
    tied_classes=(),
    others=("logit_scale", "logit_bias", "{prefix}embeddings.position_ids"),
)
_VISION_STREAM = Stream(
    embeddings=("{prefix}embeddings.position_embedding.weight",),
    vectors=("{prefix}embeddings.class_embedding",),
    writes=("{prefix}embeddings.patch_embedding",),
    norms=("{prefix}pre_layrnorm", "{prefix}post_layernorm"),
    entry_norm="{prefix}pre_layrnorm",
    heads=("visual_projection",),
    others=("{prefix}embeddings.position_ids",),
)
_SIGLIP_STREAM = replace(_TEXT_STREAM, others=(*_TEXT_STREAM.others, "vision_model.*"))

_OPEN_CLIP = Architecture(
    query="transformer.resblocks.{layer}.attn.in_proj_",
    key="transformer.resblocks.{layer}.attn.in_proj_",
    value="transformer.resblocks.{layer}.attn.in_proj_",
    output="transformer.resblocks.{layer}.attn.out_proj",
    up="transformer.resblocks.{layer}.mlp.c_fc",
    down="transformer.resblocks.{layer}.mlp.c_proj",
    attention_norm="transformer.resblocks.{layer}.ln_1",
    mlp_norm="transformer.resblocks.{layer}.ln_2",
    layer_scales=("transformer.resblocks.{layer}.ls_1.gamma", "transformer.resblocks.{layer}.ls_2.gamma"),
    layers="layers",
    width="width",
    heads="heads",
    head_width="head_width",
    neurons="neurons",
)

_T5_ENCODER = Architecture(
    query="encoder.block.{layer}.layer.0.SelfAttention.q",
    key="encoder.block.{layer}.layer.0.SelfAttention.k",
    value="encoder.block.{layer}.layer.0.SelfAttention.v",
    output="encoder.block.{layer}.layer.0.SelfAttention.o",
    up="encoder.block.{layer}.layer.1.DenseReluDense.wi",
    gate="encoder.block.{layer}.layer.1.DenseReluDense.wi_0",
    gated_up="encoder.block.{layer}.layer.1.DenseReluDense.wi_1",
    down="encoder.block.{layer}.layer.1.DenseReluDense.wo",
    attention_norm="encoder.block.{layer}.layer.0.layer_norm",
    mlp_norm="encoder.block.{layer}.layer.1.layer_norm",
    layers="num_layers",
    width="d_model",
    heads="num_heads",
    head_width="d_kv",
    neurons="d_ff",
    part="encoder",
    tied=True,
    centred=False,
    legal={kind: group for kind, group in PRE_NORM.items() if kind != "heads"},  # all layers share a bias by head
)
_T5_DECODER = replace(
    _T5_ENCODER,
    query="decoder.block.{layer}.layer.0.SelfAttention.q",
    key="decoder.block.{layer}.layer.0.SelfAttention.k",
    value="decoder.block.{layer}.layer.0.SelfAttention.v",
    output="decoder.block.{layer}.layer.0.SelfAttention.o",
    up="decoder.block.{layer}.layer.2.DenseReluDense.wi",
    gate="decoder.block.{layer}.layer.2.DenseReluDense.wi_0",
    gated_up="decoder.block.{layer}.layer.2.DenseReluDense.wi_1",
    down="decoder.block.{layer}.layer.2.DenseReluDense.wo",
    attention_norm="decoder.block.{layer}.layer.0.layer_norm",
    mlp_norm="decoder.block.{layer}.layer.2.layer_norm",
    final_norm="decoder.final_layer_norm",
    readout="lm_head",
    tied=True,
    layers="num_decoder_layers",
    part="decoder",
)
_T5_CROSS = replace(
    _T5_DECODER,
    query="decoder.block.{layer}.layer.1.EncDecAttention.q",
    key="decoder.block.{layer}.layer.1.EncDecAttention.k",
    value="decoder.block.{layer}.layer.1.EncDecAttention.v",
    output="decoder.block.{layer}.layer.1.EncDecAttention.o",
    up=None,
    gate=None,
    gated_up=None,
    down=None,
    attention_norm="decoder.block.{layer}.layer.1.layer_norm",
    mlp_norm=None,
    memory_norm="encoder.final_layer_norm",
    final_norm=None,
    readout=None,
    part="cross",
    legal=PRE_NORM,
)


_CLIP_BOTH = Network(
    (replace(_CLIP_TEXT, defaults=_TEXT), replace(_CLIP_VISION, defaults=_TOWER)),
    ((_TEXT_STREAM, ("text",)), (_VISION_STREAM, ("vision",))),
)
_SIGLIP_BOTH = Network(
    (replace(_CLIP_TEXT, defaults=_TOWER), replace(_CLIP_VISION, defaults=_TOWER)),
    ((_SIGLIP_STREAM, ("text",)),),
)


def _alone(both: Network, part: str) -> Network:
    """One tower by itself, whose tensors may have names without its prefix. It gives out its stream, which stays."""
    stack = next(stack for stack in both.stacks if stack.part == part)
    return Network((replace(stack, prefixes=(*stack.prefixes, ""), exposed=("",)),))


DESCRIBED: Mapping[str, Architecture | ArchitectureLike] = {
    "vit": replace(VIT, prefixes=("vit.", "")),
    "deit": replace(VIT, prefixes=("deit.", "")),
    "bert": BERT,
    "roberta": replace(
        BERT,
        prefixes=("roberta.", ""),
        stream=replace(
            BERT_STREAM, heads=("{prefix}pooler.dense", "classifier.dense"), others=("classifier.out_proj.*",)
        ),
    ),
    "gpt2": Architecture(
        query="h.{layer}.attn.c_attn",
        key="h.{layer}.attn.c_attn",
        value="h.{layer}.attn.c_attn",
        output="h.{layer}.attn.c_proj",
        up="h.{layer}.mlp.c_fc",
        down="h.{layer}.mlp.c_proj",
        attention_norm="h.{layer}.ln_1",
        mlp_norm="h.{layer}.ln_2",
        prefixes=("transformer.", ""),
        layers="n_layer",
        width="n_embd",
        heads="n_head",
        neurons="n_inner",
        tied=True,
        fixed_head_width=True,
        transposed=True,
        stream=Stream(
            embeddings=("{prefix}wte.weight", "{prefix}wpe.weight"),
            norms=("{prefix}ln_f",),
            heads=("lm_head", "score"),
            others=("{prefix}h.*.attn.bias", "{prefix}h.*.attn.masked_bias"),
        ),
    ),
    "gpt_neox": Architecture(
        query="layers.{layer}.attention.query_key_value",
        key="layers.{layer}.attention.query_key_value",
        value="layers.{layer}.attention.query_key_value",
        output="layers.{layer}.attention.dense",
        up="layers.{layer}.mlp.dense_h_to_4h",
        down="layers.{layer}.mlp.dense_4h_to_h",
        attention_norm="layers.{layer}.input_layernorm",
        mlp_norm="layers.{layer}.post_attention_layernorm",
        final_norm="final_layer_norm",
        readout="embed_out",
        prefixes=("gpt_neox.", ""),
        fixed_head_width=True,
        planes="half",
        interleaved=True,
        stream=Stream(
            embeddings=("{prefix}embed_in.weight",),
            norms=("{prefix}final_layer_norm",),
            heads=("embed_out", "score"),
            others=("*.attention.bias", "*.attention.masked_bias", "*.rotary_emb.inv_freq"),
        ),
    ),
    "llama": LLAMA,
    "mistral": LLAMA,
    "qwen2": LLAMA,
    "qwen3": replace(LLAMA, query_norm=Q_NORM, key_norm=K_NORM),
    "gemma2": GEMMA2,
    "gemma3_text": _GEMMA3,
    "gemma3": Network(
        (
            replace(
                _GEMMA3,
                prefixes=("language_model.model.", "model.language_model.", "language_model."),
                config=("text_config",),
                part="text",
            ),
            replace(
                _CLIP_VISION,
                prefixes=("vision_tower.", "vision_tower.vision_model.", "model.vision_tower.vision_model."),
            ),
        )
    ),
    "olmo2": replace(
        LLAMA,
        attention_norm=None,
        mlp_norm=None,
        post_norms=("layers.{layer}.post_attention_layernorm", "layers.{layer}.post_feedforward_layernorm"),
        query_norm=Q_NORM,
        key_norm=K_NORM,
    ),
    "phi3": replace(
        LLAMA,
        query="layers.{layer}.self_attn.qkv_proj",
        key="layers.{layer}.self_attn.qkv_proj",
        value="layers.{layer}.self_attn.qkv_proj",
        up="layers.{layer}.mlp.gate_up_proj",
        gate="layers.{layer}.mlp.gate_up_proj",
    ),
    "cohere": replace(
        LLAMA,
        mlp_norm="layers.{layer}.input_layernorm",
        centred=True,
        planes="interleaved",
        tied=True,
        query_norm=Q_NORM,
        key_norm=K_NORM,
    ),
    "mixtral": MIXTRAL,
    "t5": Network(
        (_T5_ENCODER, _T5_DECODER, _T5_CROSS),
        (
            (
                Stream(
                    embeddings=("shared.weight", "encoder.embed_tokens.weight", "decoder.embed_tokens.weight"),
                    norms=("encoder.final_layer_norm", "decoder.final_layer_norm"),
                    heads=("lm_head",),
                    others=tuple(
                        f"{stack}.block.*.layer.0.SelfAttention.relative_attention_bias.weight"
                        for stack in ("encoder", "decoder")
                    ),
                ),
                ("encoder", "decoder", "cross"),
            ),
        ),
    ),
    "clip": _CLIP_BOTH,
    "clip_text_model": _alone(_CLIP_BOTH, "text"),
    "clip_vision_model": _alone(_CLIP_BOTH, "vision"),
    "siglip": _SIGLIP_BOTH,
    "siglip_text_model": _alone(_SIGLIP_BOTH, "text"),
    "siglip_vision_model": _alone(_SIGLIP_BOTH, "vision"),
    "open_clip": Network(
        (
            replace(
                _OPEN_CLIP,
                prefixes=("", "text."),
                config=("model_cfg", "text_cfg"),
                part="text",
                defaults={"layers": 12, "width": 512, "heads": 8},
            ),
            replace(
                _OPEN_CLIP,
                prefixes=("visual.",),
                config=("model_cfg", "vision_cfg"),
                part="vision",
                defaults={"layers": 12, "width": 768, "head_width": 64},
            ),
        ),
        (
            (
                Stream(
                    embeddings=("{prefix}token_embedding.weight", "{prefix}positional_embedding"),
                    projections=("{prefix}text_projection",),
                    norms=("{prefix}ln_final",),
                    tied_classes=(),
                    others=("logit_scale", "logit_bias", "{prefix}attn_mask"),
                ),
                ("text",),
            ),
            (
                Stream(
                    embeddings=("{prefix}positional_embedding",),
                    vectors=("{prefix}class_embedding",),
                    projections=("{prefix}proj",),
                    writes=("{prefix}conv1",),
                    norms=("{prefix}ln_pre", "{prefix}ln_post"),
                    entry_norm="{prefix}ln_pre",
                ),
                ("vision",),
            ),
        ),
    ),
    "resnet": RESNET,
}
"""Hugging Face names, as they are saved, and open_clip's."""
