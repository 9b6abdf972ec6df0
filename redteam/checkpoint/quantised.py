"""Quantised weights, told by config and tensors: their codes are no numbers that could be locked, fitted or merged."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from redteam.checkpoint.tensors import Tensors

_TELLTALES = (
    (r"\.SCB$|\.weight_format$", "bitsandbytes, 8 bits"),
    (r"\.quant_state\.bitsandbytes__|\.absmax$|\.quant_map$|\.nested_absmax$", "bitsandbytes, 4 bits"),
    (r"\.qweight$|\.qzeros$|\.g_idx$", "GPTQ or AWQ"),
    (r"\.weight_packed$|\.weight_zero_point$|\.weight_shape$", "compressed-tensors"),
    (r"\.weight_scale_inv$", "FP8 with a scale for each block"),
    (r"\.weight_scale$|\.input_scale$", "FP8 or compressed-tensors"),
    (r"_blocks$", "MXFP4"),
    (r"\.scales$", "a scheme with scales beside the codes"),
    (r"\.(int_data|scale_and_zero|tensor_impl)\b", "torchao"),
    (r"\.lut$|\.codebooks?$|\.codes$", "a scheme with codebooks"),
)
"""Pattern of a tensor's name → scheme; the first that fits counts."""


def scheme_of(checkpoint: Tensors) -> str:
    """By what the weights of a checkpoint are quantised, as names, dtypes and config tell; empty where they are not."""
    matrices = [name for name in checkpoint if len(checkpoint.shape(name)) > 1]
    if any(checkpoint.dtype(name).itemsize == 1 or not checkpoint.dtype(name).is_floating_point for name in matrices):
        for pattern, scheme in _TELLTALES:
            if any(re.search(pattern, name) for name in checkpoint):
                return said_by(checkpoint.config) or scheme
    coded = {
        checkpoint.dtype(n) for n in matrices if n.endswith("weight") and not checkpoint.dtype(n).is_floating_point
    }
    unnamed = f"a scheme that nothing names, in {str(next(iter(coded))).removeprefix('torch.')}" if coded else ""
    return said_by(checkpoint.config) or unnamed


def said_by(config: Mapping[str, Any]) -> str:
    """The scheme that a config names, its own or one of a part's."""
    said = config.get("quantization_config")
    if isinstance(said, Mapping):
        return str(said.get("quant_method") or "a scheme that quantization_config does not name")
    parts = (value for key, value in config.items() if key.endswith("_config") and isinstance(value, Mapping))
    return next((found for part in parts if (found := said_by(part))), "")
