"""A config made small: the same model type and the same switches, with sizes in which a network is run in a moment."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from typing import Any

from redteam.errors import BadInput
from redteam.symmetry.inputs import tightened

WIDTH, HEADS, GROUPS, HEAD, NEURONS, VOCABULARY, EXPERTS = 64, 4, 2, 24, 40, 70, 4
_LENGTH = 65
_TRUNK = "mobilenetv3_small_050"  # of timm's networks a small one, where a config names one of them
_WIDER = 8  # where code has a number of its own for the rotary planes of a head

_SIZES: tuple[tuple[str, int], ...] = (
    (r"(hidden_size|d_model|n_embd|dim|embed_dim|width|output_hidden_size|text_embed_dim|project_dim)", WIDTH),
    (r"(embedding_size|pooler_hidden_size|cross_hidden_size|encoder_hidden_size|reduce_dim)", WIDTH),
    (r"(attention_hidden_size)", WIDTH),
    (r"(word_embed_proj_dim|reassemble_hidden_size)", WIDTH),
    (r"(neck_hidden_sizes|fusion_hidden_size)", WIDTH // 4),
    (r"(num_attention_heads|n_heads?|num_heads|(en|de)coder_attention_heads|attention_heads|heads)", HEADS),
    (r"(num_key_value_heads|num_kv_heads|multi_query_group_num|num_global_key_value_heads)", GROUPS),
    (r"(head_dim|d_kv|global_head_dim|attention_head_dim|kv_channels)", HEAD),
    (r"(head_width|decoder_hidden_size)", WIDTH // HEADS),
    (r"(intermediate_size|d_ff|n_inner|ffn_hidden_size|ffn_dim|dff|d_inner|(en|de)coder_ffn_dim|hidden_dim)", NEURONS),
    (r"(moe_intermediate_size|shared_expert_intermediate_size|shared_intermediate_size|mlp_dim)", NEURONS),
    (r"(expert_ffn_hidden_size|intermediate_size_mlp|moe_shared_expert_intermediate_size)", NEURONS),
    (r"(vocab_size|vocab_size_per_layer_input|text_vocab_size)", VOCABULARY),
    (r"(type_vocab_size)", 2),
    (r"(num_local_experts|num_experts|n_routed_experts|moe_num_experts)", EXPERTS),
    (r"(num_experts_per_tok|num_experts_per_token|moe_k|moe_topk|top_k_experts|moe_topk)", 2),
    (r"(n_group|topk_group|n_shared_experts|num_shared_experts|moe_num_shared_experts)", 1),
    (r"(first_k_dense_replace|num_dense_layers)", 1),
    (r"(n_groups|mamba_n_?groups)", 2),
    (r"(mamba_d_ssm)", 4 * 8),
    (r"(adapter_rank)", 12),
    (r"((mamba_)?chunk_size)", 8),
    (r"(q_lora_rank)", 20),
    (r"(kv_lora_rank)", 28),
    (r"(qk_nope_head_dim)", 12),
    (r"(qk_rope_head_dim)", 8),
    (r"(v_head_dim)", 10),
    (r"(rotary_dim)", 8),
    (r"(max_(text_)?(position_embeddings|seq_len|sequence_length)|n_positions|max_target_positions)", _LENGTH),
    (r"(max_(en|de)coder_position_embeddings)", _LENGTH),
    (r"(max_source_positions)", _LENGTH // 2),
    (r"(projection_dim|classifier_proj_size|hidden_size_per_layer_input|logit_hidden_size)", 16),
    (r"(image_size|input_size)", 16),
    (r"(coordinate_size)", 10),
    (r"(shape_size)", 12),
    (r"(patch_size|spatial_patch_size)", 4),
    (r"(num_frames|tubelet_size)", 2),
    (r"(max_relative_positions|position_buckets)", 16),
    (r"(sliding_window|attention_chunk_size|local_attention|window_size|attention_window)", 8),
    (r"(num_mel_bins|linear_num_key_heads|linear_num_value_heads|mamba_n_heads|mamba_num_heads|mamba_d_state)", 4),
    (r"(linear_key_head_dim|linear_value_head_dim|mamba_d_head|mamba_head_dim|ssm_state_size)", 8),
    (r"(num_conv_pos_embeddings|num_conv_pos_embedding_groups|num_codevectors_per_group)", 4),
    (r"(codevector_dim|proj_codevector_dim|xvector_output_dim|mamba_dt_rank|conv_dim_out)", 16),
    (r"(laurel_rank|altup_num_inputs|num_deepstack_layers)", 4),
    (r"(temporal_patch_size)", 1),
    (r"(mm_tokens_per_image|image_seq_length)", 16),
    (r"(out_hidden_size)", WIDTH),
    (r"(num_position_embeddings|num_patches)", 16),
    (r"(n_mels|num_query_tokens)", 4),
    (r"(input_feat_per_channel|feature_projection_input_dim)", 8),
)
_LAYERS = (
    r"(num_hidden_layers|n_layers?|num_layers|(en|de)coder_layers|num_(en|de)coder_layers|depth|layers"
    r"|num_global_layers|decoder_num_hidden_layers|conf_num_hidden_layers)"
)
_IDS = r".*(token_id|token_index|_ids?)"
_FORMS = (
    "SEQ_TO_SEQ_CAUSAL_LM",
    "SPEECH_SEQ_2_SEQ",
    "IMAGE_TEXT_TO_TEXT",
    "CAUSAL_LM",
    "SEQUENCE_CLASSIFICATION",
    "ZERO_SHOT_IMAGE_CLASSIFICATION",
    "IMAGE_CLASSIFICATION",
    "VIDEO_CLASSIFICATION",
    "CTC",
    "MASKED_LM",
    "SEMANTIC_SEGMENTATION",
    "OBJECT_DETECTION",
    "ZERO_SHOT_OBJECT_DETECTION",
    "DEPTH_ESTIMATION",
    "VISUAL_QUESTION_ANSWERING",
    "AUDIO_CLASSIFICATION",
)


_BY_LAYER = ("layer_types", "block_type", "_pattern", "attention_layers", "no_rope_layers")
_FOLLOWS = ("stage_names", "out_features", "out_indices", "per_layer_config")
_TAKEN = {"out_indices": 1, "backbone_out_indices": 0}
_STAGES = {"hidden_sizes": 16, "num_heads": 2, "num_attention_heads": 2, "embed_dims": 16, "embed_dim": 16}


def small_configs(config: Mapping[str, Any]) -> Iterator[dict[str, Any]]:
    """Smaller and smaller changes to a config, until transformers takes one: first all sizes, then fewer.

    Args:
        config: Complete, with `model_type`.

    Yields:
        Configs with `architectures` of one class.
    """
    for name in _classes(config):
        least = _kinds(config)
        for layers, scale in ((least, 1), (4, 1), (6, 1), (least, _WIDER)):
            tiny = _shrunk(dict(config), layers, scale)
            tiny["architectures"] = [name]
            yield tiny


def complete(model_type: str) -> dict[str, Any]:
    """The config of a model type with transformers' defaults.

    Raises:
        BadInput: If transformers knows no such type.
    """
    import transformers

    try:
        found: dict[str, Any] = transformers.AutoConfig.for_model(model_type).to_dict()
    except Exception as error:
        raise BadInput(f"transformers knows no model type {model_type!r}; give a config.json or a model's.") from error
    return found


def _classes(config: Mapping[str, Any]) -> list[str]:
    """The classes that a network of this config may be of: the config's, or those of heads that transformers has."""
    given = config.get("architectures")
    if given:
        return [str(given[0])]
    import transformers
    from transformers.models.auto import modeling_auto as auto

    masked = config["model_type"] in auto.MODEL_FOR_MASKED_LM_MAPPING_NAMES and not config.get("is_encoder_decoder")
    forms = [form for form in _FORMS if not (masked and form == "CAUSAL_LM")]
    tables = [getattr(auto, f"MODEL_FOR_{form}_MAPPING_NAMES") for form in forms] + [auto.MODEL_MAPPING_NAMES]
    found = [table[config["model_type"]] for table in tables if config["model_type"] in table]
    names = [name if isinstance(name, str) else name[0] for name in found]
    if names:
        return names
    alone = type(transformers.AutoConfig.for_model(config["model_type"])).__name__.replace("Config", "Model")
    return [alone] if hasattr(transformers, alone) else []


def _kinds(config: Mapping[str, Any]) -> int:
    """How many layers show every kind that a config lists: at least two, and no more than six."""
    found = 2
    for key, value in config.items():
        if isinstance(value, Mapping):
            found = max(found, _kinds(value))
        elif isinstance(value, list) and key.endswith(_BY_LAYER) and all(isinstance(one, str) for one in value):
            found = max(found, len(set(value)))
    return min(found, 6)


def _shrunk(config: dict[str, Any], layers: int, scale: int) -> dict[str, Any]:
    tiny: dict[str, Any] = {}
    for key, value in config.items():
        if key in _TAKEN and isinstance(value, list) and len(value) <= layers:  # the last, counted from 1 or from 0
            first = layers - len(value) + _TAKEN[key]
            tiny[key] = [*range(first, first + len(value))]
            continue
        if key in _FOLLOWS:
            continue
        if (
            isinstance(value, Mapping)
            and all(isinstance(x, str) for x in value)
            and not key.startswith(("rope", "id2", "label2", "quantization"))
        ):
            tiny[key] = _shrunk(dict(value), layers, scale)
        elif key == "attention_types" and isinstance(value, list):
            tiny[key] = [[kinds, layers // len(kinds)] for kinds, _ in value]
        elif key == "num_key_value_heads" and value is None:
            tiny[key] = GROUPS
        elif isinstance(value, list) and key.endswith(_BY_LAYER):
            tiny[key] = _varied(value, layers)
        elif key == "head_dim":
            tiny[key] = _head(config, scale)
        elif key == "architecture" and isinstance(value, str):
            tiny[key] = _TRUNK
        elif key == "vocab_size" and value is None:
            tiny[key] = VOCABULARY
        elif key == "image_token_index" and value is None:
            tiny[key] = VOCABULARY - 1
        elif isinstance(value, bool) or value is None:
            tiny[key] = value
        elif key in _STAGES and isinstance(value, list):
            tiny[key] = [_STAGES[key] * 2**i for i in range(len(value))]
        elif key in ("depths", "conv_dim") and isinstance(value, list):
            tiny[key] = [2 if key == "depths" else 8] * len(value)
        elif (
            isinstance(value, list)
            and value == value[:1] * len(value)
            and len(value) > layers
            and not key.endswith("multipliers")
        ):
            tiny[key] = [_sized(key, value[0])] * layers  # one a layer
        elif re.fullmatch(_LAYERS, key) and isinstance(value, int):
            tiny[key] = layers
        elif re.fullmatch(_IDS, key) and isinstance(value, int):
            tiny[key] = value if value < 8 else VOCABULARY - 2 - sum(map(ord, key)) % 20
        else:
            tiny[key] = _sized(key, value)
            if scale > 1 and tiny[key] == WIDTH and value != WIDTH:
                tiny[key] *= scale
    return _consistent(tiny)


def _head(config: Mapping[str, Any], scale: int) -> int:
    """The width of a head: of the rotary part where a config has one, else another than the model's share of it.

    Where the config has it follow from the model's width, it does here; where it is None, some networks fail.
    """
    if "qk_rope_head_dim" in config:
        rope = config.get("rope_parameters")
        share = rope.get("partial_rotary_factor") if isinstance(rope, Mapping) else None
        return int(dict(_SIZES)["(qk_rope_head_dim)"] / (share or 1))
    width, heads, head = (config.get(key) for key in ("hidden_size", "num_attention_heads", "head_dim"))
    follows = isinstance(width, int) and isinstance(heads, int) and width == heads * (head or 0)
    return scale * WIDTH // HEADS if follows else HEAD


def _sized(key: str, value: Any) -> Any:
    size = next((size for pattern, size in _SIZES if re.fullmatch(pattern, key)), None)
    if size is None:
        return value
    if isinstance(value, list):
        return [size] * len(value)
    return size if isinstance(value, int) else value


def _varied(kinds: list[Any], layers: int) -> list[Any]:
    """As many layers, of as many kinds as there are, in the order in which they first appear."""
    firsts = list(dict.fromkeys(kinds))
    return [*firsts, *kinds][:layers] if len(firsts) <= layers else kinds[:layers]


def _consistent(tiny: dict[str, Any]) -> dict[str, Any]:
    """Sizes that follow from others, in the configs that keep both."""
    for key in ("rope_parameters", "rope_scaling"):
        rope = tiny.get(key)
        if isinstance(rope, dict) and "mrope_section" in rope:
            half = (tiny.get("head_dim") or WIDTH // HEADS) // 2
            side = half * 3 // 8
            tiny[key] = {**rope, "mrope_section": [half - 2 * side, side, side]}
    tiny = tightened(tiny)
    if "downsample_ratio" in tiny and "image_seq_length" in tiny:  # patches are put together
        tiny["image_seq_length"] = int(tiny["image_seq_length"] * tiny["downsample_ratio"] ** 2)
    if tiny.get("num_kv_shared_layers"):
        tiny["num_kv_shared_layers"] = 0
    if "num_experts_per_tok" in tiny and tiny["num_experts_per_tok"] is None:
        tiny["num_experts_per_tok"] = 2
    if isinstance(tiny.get("depths"), list):
        tiny |= {"image_size": 64} | ({"window_size": 2} if "window_size" in tiny else {})
        tiny |= {"embed_dim": 16} if isinstance(tiny.get("embed_dim"), int) else {}
    if "mamba_d_head" in tiny:
        inner = tiny.get("mamba_d_ssm") or tiny.get("mamba_expand", 2) * tiny["hidden_size"]
        tiny["mamba_d_head"] = inner // tiny["mamba_n_heads"]
    if "n_mamba_heads" in tiny:  # Zamba: attention reads the stream and the embeddings side by side
        double = 2 * tiny["hidden_size"]
        head = double // tiny["num_attention_heads"]
        tiny |= {"attention_hidden_size": double, "attention_head_dim": head}
        kinds = ["linear_attention"] + ["hybrid"] * 2 * tiny.get("num_mem_blocks", 1)  # each block in two layers
        tiny |= {"layers_block_type": kinds, "num_hidden_layers": len(kinds)}
        tiny["hybrid_layer_ids"] = [layer for layer, kind in enumerate(kinds) if kind == "hybrid"]
        if tiny.get("use_shared_attention_adapter"):  # which is as wide as all heads
            tiny["num_key_value_heads"] = tiny["num_attention_heads"]
        if "mamba_headdim" in tiny:
            tiny["mamba_headdim"] = tiny["mamba_expand"] * tiny["hidden_size"] // tiny["n_mamba_heads"]
    if tiny.get("multi_query") is False and not tiny.get("new_decoder_architecture") and "num_kv_heads" in tiny:
        tiny["num_kv_heads"] = tiny["num_attention_heads"]
    if "d_head" in tiny and "d_model" in tiny:
        tiny["d_head"] = tiny["d_model"] // tiny["n_head"]
    if {"state_size", "expand", "head_dim", "num_heads"} <= tiny.keys():
        tiny["head_dim"] = tiny["expand"] * tiny["hidden_size"] // tiny["num_heads"]
    if tiny.get("kv_lora_rank"):
        tiny["num_key_value_heads"] = tiny.get("num_attention_heads")
    return tiny
