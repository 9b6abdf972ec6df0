"""Quantised weights, told by config and tensors: their codes are no numbers that could be locked, fitted or merged."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from typing import Any

import torch

from redteam.checkpoint.tensors import Tensors

_TELLTALES = (
    (r"\.SCB$|\.weight_format$", "bitsandbytes, 8 bits"),
    (r"\.quant_state\.bitsandbytes__|\.absmax$|\.quant_map$|\.nested_absmax$", "bitsandbytes, 4 bits"),
    (r"\.qweight$|\.qzeros$|\.g_idx$", "GPTQ or AWQ"),
    (r"\.weight_packed$|\.weight_zero_point$|\.weight_shape$|\.bitmask$", "compressed-tensors"),
    (r"\.weight_scale_2$", "NVFP4"),
    (r"\.(int_data|scale_and_zero|tensor_impl)\b", "torchao"),
    (r"\.lut$|\.codebooks?$|\.codes$", "a scheme with codebooks"),
    (r"_scale_inv$", "FP8 with a scale for each block"),
    (r"\.weight_scale$|\.input_scale$", "FP8 or compressed-tensors"),
    (r"_blocks$", "MXFP4"),
    (r"\.scales$", "a scheme with scales beside the codes"),
)
"""Pattern of a tensor's name → scheme; the first that fits counts."""
_READ = ("FP8", "MXFP4")  # how the names of the schemes begin that can be brought back
_METHODS = ("fp8", "fbgemm_fp8", "mxfp4", "compressed-tensors", "modelopt")
"""Methods in configs whose weights may be FP8 with scales, or MXFP4."""


def scheme_of(checkpoint: Tensors) -> str:
    """By what the weights of a checkpoint are quantised, as names, dtypes and config tell; empty where they are not."""
    return said_by(checkpoint.config) or _told_by_tensors(checkpoint)


def can_be_brought_back(checkpoint: Tensors) -> bool:
    """Whether quantised weights are FP8 with scales, MXFP4 or already numbers, whatever else may be wrong with them."""
    for settings in quantisation(checkpoint.config):
        if settings.get("quant_method", "") not in _METHODS:
            return False
        if any(weights.get("num_bits") != 8 or weights.get("type") != "float" for weights in weights_in(settings)):
            return False
        if str(settings.get("quant_algo") or "FP8") not in ("FP8", "FP8_PER_CHANNEL_PER_TOKEN"):
            return False
    told = _told_by_tensors(checkpoint)
    return not _whole_numbers(checkpoint) and (not told or told.startswith(_READ))


def quantisation(config: Mapping[str, Any]) -> Iterator[Mapping[str, Any]]:
    """What a config says of quantisation, of itself and of its parts."""
    for key, value in config.items():
        if key == "quantization_config" and isinstance(value, Mapping):
            yield value
        elif key.endswith("_config") and isinstance(value, Mapping):
            yield from quantisation(value)


def weights_in(settings: Mapping[str, Any]) -> list[Mapping[str, Any]]:
    """What the groups of compressed-tensors say of their weights; empty for other methods."""
    groups = settings.get("config_groups")
    found = groups.values() if isinstance(groups, Mapping) else ()
    said = [group.get("weights") for group in found if isinstance(group, Mapping)]
    return [weights for weights in said if isinstance(weights, Mapping)]


def said_by(config: Mapping[str, Any]) -> str:
    """The scheme that a config names, its own or one of a part's."""
    for settings in quantisation(config):
        method = str(settings.get("quant_method") or "a scheme that quantization_config does not name")
        kind = settings.get("format") or settings.get("quant_algo")
        return f"{method}, {kind}" if isinstance(kind, str) else method
    return ""


def _told_by_tensors(checkpoint: Tensors) -> str:
    matrices = [name for name in checkpoint if len(checkpoint.shape(name)) > 1]
    if any(checkpoint.dtype(name).itemsize == 1 or not checkpoint.dtype(name).is_floating_point for name in matrices):
        for pattern, scheme in _TELLTALES:
            if any(re.search(pattern, name) for name in checkpoint):
                return scheme
    coded = _whole_numbers(checkpoint)
    return f"a scheme that nothing names, in {str(next(iter(coded))).removeprefix('torch.')}" if coded else ""


def _whole_numbers(checkpoint: Tensors) -> set[torch.dtype]:
    """Dtypes of weights that are matrices of whole numbers."""
    weights = [name for name in checkpoint if name.endswith("weight") and len(checkpoint.shape(name)) > 1]
    return {dtype for name in weights if not (dtype := checkpoint.dtype(name)).is_floating_point}
