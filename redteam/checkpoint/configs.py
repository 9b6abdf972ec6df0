"""Configs compared: whether two checkpoints' weights mean the same."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from fnmatch import fnmatchcase
from typing import Any

_COUNTS = (
    "*_act",
    "*_activation*",
    "activation_function",
    "dense_act_fn",
    "feed_forward_proj",
    "*eps",
    "*epsilon",
    "rope_*",
    "*rotary*",
    "partial_rotary_factor",
    "position_embedding_type",
    "*_heads",
    "n_head",
    "head_dim",
    "d_kv",
    "*norm*",
    "*softcap*",
    "*_multiplier",
    "query_pre_attn_scalar",
    "scale_*",
    "*window*",
    "layer_types",
    "no_rope_layer*",
    "tie_*",
    "is_decoder",
    "add_cross_attention",
    "num_experts_per_tok",
    "experts_per_token",
    "router_*scal*",
    "relative_attention_*",
    "layerscale_value",
    "patch_size",
)
"""Settings that change what weights compute: activations, norms, positions, heads, scales, tying. The rest, such as
labels, dropout and token ids, may differ between a base and what was trained from it."""
ACTIVATIONS = ("hidden_act", "hidden_activation", "activation_function", "dense_act_fn", "mlp_hidden_act")
"""The settings that may name the activation of the MLPs."""
_ALIKE = {"tie_encoder_decoder", "initializer_range"}
_SPELT = {"swish": "silu", "gelu_python": "gelu"}
"""Two names of one function."""
_PARTS = ("_config", "_cfg", "rope_parameters", "rope_scaling")


def disagreements(one: Mapping[str, Any], other: Mapping[str, Any]) -> dict[str, tuple[Any, Any]]:
    """Settings that change what weights compute and on which two configs differ: name → what each of them says.

    What one of them leaves out has transformers' default where transformers knows the model type.
    """
    from redteam.checkpoint.known import completed

    mine, theirs = dict(_settings(one)), dict(_settings(other))
    if mine.keys() ^ theirs.keys():
        mine, theirs = dict(_settings(completed(one))), dict(_settings(completed(other)))
    both = [name for name in mine if name in theirs]
    return {name: (mine[name], theirs[name]) for name in both if mine[name] != theirs[name]}


def _settings(config: Mapping[str, Any], above: str = "", counts: bool = False) -> Iterator[tuple[str, Any]]:
    for key, value in config.items():
        name, known = f"{above}{key}", counts or any(fnmatchcase(key, pattern) for pattern in _COUNTS)
        if isinstance(value, Mapping) and (key.endswith(_PARTS) or counts):
            yield from _settings(value, f"{name}.", counts or key in _PARTS)
        elif known and key not in _ALIKE and not isinstance(value, Mapping):
            yield name, _SPELT.get(value, value) if isinstance(value, str) else value
