"""Quantised weights are told by config or by tensors, in every command, and never taken for numbers."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file

from redteam.checkpoint import Checkpoint
from redteam.errors import NotACheckpoint

LAYER = "model.layers.0.mlp.up_proj"
CODES = torch.randint(-100, 100, (8, 8), dtype=torch.int8, generator=torch.Generator().manual_seed(0))
SCHEMES: dict[str, dict[str, torch.Tensor]] = {
    "bitsandbytes, 8 bits": {f"{LAYER}.weight": CODES, f"{LAYER}.SCB": torch.rand(8)},
    "bitsandbytes, 4 bits": {
        f"{LAYER}.weight": CODES.view(torch.uint8).reshape(-1, 1),
        f"{LAYER}.weight.absmax": torch.rand(1),
        f"{LAYER}.weight.quant_state.bitsandbytes__nf4": torch.zeros(9, dtype=torch.uint8),
    },
    "GPTQ or AWQ": {f"{LAYER}.qweight": CODES.int(), f"{LAYER}.qzeros": CODES.int(), f"{LAYER}.scales": torch.rand(8)},
    "compressed-tensors": {f"{LAYER}.weight_packed": CODES.int(), f"{LAYER}.weight_scale": torch.rand(8, 1)},
    "FP8 with a scale for each block": {
        f"{LAYER}.weight": torch.rand(8, 8).to(torch.float8_e4m3fn),
        f"{LAYER}.weight_scale_inv": torch.rand(1, 1),
    },
    "MXFP4": {f"{LAYER}_blocks": CODES.view(torch.uint8), f"{LAYER}_scales": CODES[:1].view(torch.uint8).clone()},
    "int8": {f"{LAYER}.weight": CODES},
}


def stored(folder: Path, tensors: dict[str, torch.Tensor], config: dict[str, Any], shards: bool) -> Path:
    folder.mkdir()
    (folder / "config.json").write_text(json.dumps({"model_type": "llama", **config}))
    if not shards:
        save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})
        return folder
    files = {name: f"model-{k + 1:05}-of-{len(tensors):05}.safetensors" for k, name in enumerate(tensors)}
    for name, file in files.items():
        save_file({name: tensors[name]}, folder / file, metadata={"format": "pt"})
    (folder / "model.safetensors.index.json").write_text(json.dumps({"weight_map": files}))
    return folder


@pytest.mark.parametrize("shards", [False, True])
@pytest.mark.parametrize("scheme", SCHEMES)
def test_its_tensors_tell_the_scheme(tmp_path: Path, scheme: str, shards: bool) -> None:
    with pytest.raises(NotACheckpoint, match="quantised") as told:
        Checkpoint.open(stored(tmp_path / "model", SCHEMES[scheme], {}, shards))
    assert scheme in str(told.value)


@pytest.mark.parametrize("inside", [False, True])
def test_its_config_tells_the_scheme(tmp_path: Path, inside: bool) -> None:
    said: dict[str, Any] = {"quantization_config": {"quant_method": "awq", "bits": 4}}
    config = {"text_config": said} if inside else said
    with pytest.raises(NotACheckpoint, match="awq"):
        Checkpoint.open(stored(tmp_path / "model", {f"{LAYER}.weight": torch.rand(8, 8)}, config, False))


@pytest.mark.parametrize(
    "words",
    [
        ["protect", "rotation", "model", "--key", "key", "--out", "out"],
        ["attack", "gauge-fit", "model", "--base", "plain", "--out", "out"],
        ["attack", "gauge-fit", "plain", "--base", "model", "--out", "out"],
        ["merge", "task-arithmetic", "--base", "plain", "--expert", "model", "--out", "out"],
        ["merge", "task-arithmetic", "--base", "model", "--expert", "plain", "--out", "out"],
        ["audit", "model", "--base", "plain"],
    ],
)
def test_every_command_refuses_them_in_a_sentence(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, shell: Callable[..., Any], words: list[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    stored(Path("model"), SCHEMES["bitsandbytes, 8 bits"], {}, False)
    stored(Path("plain"), {f"{LAYER}.weight": torch.rand(8, 8)}, {}, False)
    told = shell(*words)
    assert (told.code, told.out) == (2, "")
    assert "bitsandbytes, 8 bits" in told.err
    assert {path.name for path in tmp_path.iterdir()} == {"model", "plain"}


def test_what_is_no_weight_may_have_any_dtype(tmp_path: Path) -> None:
    """Masks and positions of whole numbers, and a float8 tensor without scales, which is a number for itself."""
    tensors = {
        f"{LAYER}.weight": torch.rand(8, 8),
        "h.0.attn.bias": torch.ones(8, 8, dtype=torch.uint8),
        "position_ids": torch.arange(8).reshape(1, 8),
        "cache": torch.rand(8, 8).to(torch.float8_e4m3fn),
    }
    assert set(Checkpoint.open(stored(tmp_path / "model", tensors, {}, False))) == set(tensors)
