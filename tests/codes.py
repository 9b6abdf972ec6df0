"""Folders of quantised weights: codes and scales as they are published."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from torch import Tensor

from redteam.checkpoint import Checkpoint

UP = "model.layers.0.mlp.up_proj.weight"
EXPERTS = "model.layers.0.mlp.experts.down_proj"
BLOCKS = {"quant_method": "fp8", "weight_block_size": [128, 128]}
FOURS = {"quant_method": "fp8", "weight_block_size": [4, 4]}
ROWS = {"quant_method": "fbgemm_fp8"}
FLOATS = {"num_bits": 8, "type": "float"}


def grouped(**weights: Any) -> dict[str, Any]:
    """What compressed-tensors writes of one group."""
    groups = {"group_0": {"targets": ["Linear"], "weights": {**FLOATS, **weights}}}
    return {"quant_method": "compressed-tensors", "format": "float-quantized", "config_groups": groups}


def drawn(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def codes(*shape: int, seed: int = 0) -> Tensor:
    return (50 * drawn(*shape, seed=seed)).to(torch.float8_e4m3fn)


def folder(path: Path, tensors: Mapping[str, Tensor], config: Mapping[str, Any], *, shards: bool = False) -> Path:
    """A checkpoint, in one file or with each tensor in a shard of its own."""
    path.mkdir(parents=True)
    (path / "config.json").write_text(json.dumps({"model_type": "toy", **config}))
    if not shards:
        save_file(dict(tensors), path / "model.safetensors", metadata={"format": "pt"})
        return path
    files = {name: f"model-{k + 1:05}-of-{len(tensors):05}.safetensors" for k, name in enumerate(tensors)}
    for name, file in files.items():
        save_file({name: tensors[name]}, path / file, metadata={"format": "pt"})
    (path / "model.safetensors.index.json").write_text(json.dumps({"metadata": {}, "weight_map": files}))
    return path


def opened(path: Path, tensors: Mapping[str, Tensor], said: Mapping[str, Any] | None, **more: Any) -> Checkpoint:
    config = {} if said is None else {"quantization_config": dict(said)}
    return Checkpoint.open(folder(path, tensors, config, **more), dequantise=torch.bfloat16)


def spread(scales: Tensor, shape: torch.Size, height: int, width: int) -> Tensor:
    """Each scale over its block, float64."""
    wide = torch.kron(scales.double(), torch.ones(height, width, dtype=torch.float64))
    return wide[..., : shape[-2], : shape[-1]]


def microscaled(experts: int, rows: int, groups: int, low: int = 90, high: int = 160) -> dict[str, Tensor]:
    generator = torch.Generator().manual_seed(experts)
    packed = torch.randint(0, 256, (experts, rows, groups, 16), dtype=torch.uint8, generator=generator)
    scales = torch.randint(low, high, (experts, rows, groups), dtype=torch.uint8, generator=generator)
    return {f"{EXPERTS}_blocks": packed, f"{EXPERTS}_scales": scales}
