"""FP8 with scales and MXFP4 are read as numbers where that is asked for: whole, or not at all.

The numbers are compared with codes and scales multiplied out in float64, and with what transformers makes of MXFP4.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from redteam.checkpoint import Checkpoint
from redteam.errors import NotACheckpoint
from tests.codes import (
    BLOCKS,
    EXPERTS,
    ROWS,
    UP,
    codes,
    drawn,
    folder,
    grouped,
    microscaled,
    opened,
    spread,
)


@pytest.mark.parametrize("shards", [False, True])
@pytest.mark.parametrize(
    ("said", "shape", "end", "scales", "block"),
    [
        (BLOCKS, (300, 130), "_scale_inv", (3, 2), (128, 128)),
        (BLOCKS, (64, 128), "_scale_inv", (1, 1), (128, 128)),
        ({"quant_method": "fp8"}, (130, 128), "_scale_inv", (2, 1), (128, 128)),
        ({"quant_method": "fp8", "weight_block_size": [4, 32]}, (10, 70), "_scale_inv", (3, 3), (4, 32)),
        ({"quant_method": "fp8", "weight_block_size": None}, (10, 7), "_scale_inv", (), (10, 7)),
        ({"quant_method": "fp8", "activation_scheme": "static"}, (300, 7), "_scale", (1,), (300, 7)),
        (ROWS, (10, 7), "_scale", (10, 1), (1, 7)),
        (grouped(strategy="tensor"), (10, 7), "_scale", (1,), (10, 7)),
        (grouped(strategy="channel"), (10, 7), "_scale", (10, 1), (1, 7)),
        (grouped(strategy="channel"), (10, 7), "_scale", (10,), (1, 7)),
        (grouped(strategy="block", block_structure=[4, 3]), (10, 7), "_scale", (3, 3), (4, 3)),
        (grouped(strategy="block", block_structure="4x3"), (10, 7), "_scale", (3, 3), (4, 3)),
        (grouped(strategy="group", group_size=4), (10, 8), "_scale", (10, 2), (1, 4)),
        ({"quant_method": "modelopt", "quant_algo": "FP8"}, (10, 7), "_scale", (), (10, 7)),
        (None, (10, 7), "_scale", (10, 1), (1, 7)),
    ],
)
def test_a_weight_is_its_codes_times_its_scales(
    tmp_path: Path,
    said: Mapping[str, Any] | None,
    shape: tuple[int, int],
    end: str,
    scales: tuple[int, ...],
    block: tuple[int, int],
    shards: bool,
) -> None:
    weight, factors = codes(*shape), drawn(*scales, seed=1).abs()
    plain = {"model.norm.weight": torch.rand(7)}
    found = opened(tmp_path / "m", {UP: weight, f"{UP}{end}": factors, **plain}, said, shards=shards)
    grid = factors.reshape(-1, 1) if len(scales) < 2 else factors
    expected = (weight.double() * spread(grid, weight.shape, *block)).float().bfloat16()
    assert found.dtype(UP) == torch.bfloat16
    assert torch.equal(found[UP], expected)
    assert torch.equal(found["model.norm.weight"], plain["model.norm.weight"])
    assert set(found) == {UP, *plain}
    assert "quantization_config" not in found.config


@settings(max_examples=30, deadline=None)
@given(
    shape=st.tuples(st.integers(1, 40), st.integers(1, 40)),
    block=st.tuples(st.integers(1, 24), st.integers(1, 24)),
    experts=st.integers(0, 3),
)
def test_blocks_of_any_size_cover_weights_of_any_size(
    tmp_path_factory: pytest.TempPathFactory, shape: tuple[int, int], block: tuple[int, int], experts: int
) -> None:
    before = (experts,) if experts else ()
    grid = tuple(-(-extent // size) for extent, size in zip(shape, block, strict=True))
    weight, scales = codes(*before, *shape), drawn(*before, *grid, seed=1)
    said = {"quant_method": "fp8", "weight_block_size": list(block)}
    found = opened(tmp_path_factory.mktemp("any") / "m", {UP: weight, f"{UP}_scale_inv": scales}, said)[UP]
    each = [spread(s, weight.shape, *block) for s in scales] if experts else [spread(scales, weight.shape, *block)]
    factors = torch.stack(each) if experts else each[0]
    assert torch.equal(found, (weight.double() * factors).float().bfloat16())


@pytest.mark.parametrize("turned", [False, True])
def test_packed_experts_of_fbgemm_have_a_scale_for_each_column(tmp_path: Path, turned: bool) -> None:
    """transformers writes the scales of `gate_up_proj` as rows and those of `down_proj` as columns."""
    weight, scales = codes(3, 5, 4), drawn(3, 1, 4, seed=1).abs()
    stored = {EXPERTS: weight, f"{EXPERTS}_scale": scales.mT.contiguous() if turned else scales}
    found = opened(tmp_path / "m", stored, ROWS)[EXPERTS]
    assert torch.equal(found, (weight.double() * scales.double()).float().bfloat16())


@pytest.mark.parametrize("shards", [False, True])
def test_mxfp4_is_what_transformers_makes_of_it(tmp_path: Path, shards: bool) -> None:
    from transformers.integrations.mxfp4 import convert_moe_packed_tensors

    stored = microscaled(3, 6, 2, 0, 253)
    found = opened(tmp_path / "m", stored, {"quant_method": "mxfp4"}, shards=shards)
    assert found.shape(EXPERTS) == (3, 64, 6)
    assert torch.equal(found[EXPERTS], convert_moe_packed_tensors(*stored.values()))


@pytest.mark.parametrize(
    ("stored", "said"),
    [
        (microscaled(3, 6, 2), {"quant_method": "mxfp4"}),
        (
            {EXPERTS: codes(3, 10, 8), f"{EXPERTS}_scale_inv": drawn(3, 3, 2).abs()},
            BLOCKS | {"weight_block_size": [4, 4]},
        ),
        ({EXPERTS: codes(3, 5, 4), f"{EXPERTS}_scale": drawn(3, 4, 1).abs()}, ROWS),
        ({EXPERTS: codes(3, 5, 4), f"{EXPERTS}_scale": drawn(1).abs()}, {"quant_method": "modelopt"}),
        ({EXPERTS: codes(3, 5, 4), f"{EXPERTS}_scale": drawn().abs()}, {"quant_method": "modelopt"}),
    ],
)
def test_one_expert_is_brought_back_without_the_others(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, stored: dict[str, Tensor], said: dict[str, Any]
) -> None:
    from redteam.checkpoint import sources

    found = opened(tmp_path / "m", stored, said)
    whole, read = found[EXPERTS], list[int]()
    reader = sources.read_tensor
    monkeypatch.setattr(
        sources, "read_tensor", lambda path, entry: read.append(*entry.shape[:1] or (0,)) or reader(path, entry)
    )
    assert torch.equal(torch.cat([found.part(EXPERTS, expert) for expert in range(3)]), whole)
    assert set(read) == {1} or said["quant_method"] == "modelopt"


def test_scales_may_be_stored_as_powers_of_two(tmp_path: Path) -> None:
    """safetensors#839: E8M0 has a dtype of its own in files, and older ones hold it in bytes."""
    mx, weight, powers = microscaled(2, 4, 1), codes(4, 64), torch.tensor([[120, 127]] * 4, dtype=torch.uint8)
    expected = opened(tmp_path / "a", mx, {"quant_method": "mxfp4"})[EXPERTS]
    mx[f"{EXPERTS}_scales"] = mx[f"{EXPERTS}_scales"].view(torch.float8_e8m0fnu)
    assert torch.equal(opened(tmp_path / "b", mx, {"quant_method": "mxfp4"})[EXPERTS], expected)
    for index, scales in enumerate((powers, powers.view(torch.float8_e8m0fnu))):
        stored = {UP: weight, f"{UP}_scale_inv": scales}
        found = opened(tmp_path / str(index), stored, {"quant_method": "fp8", "weight_block_size": [1, 32]})[UP]
        factors = spread(2.0 ** (powers.double() - 127), weight.shape, 1, 32)
        assert torch.equal(found, (weight.double() * factors).bfloat16())


def test_codes_that_share_bytes_are_refused_as_such(tmp_path: Path) -> None:
    """safetensors#839: the header says [2, 8] of FP4 where eight bytes lie."""
    (tmp_path / "m").mkdir()
    header = json.dumps({"w": {"dtype": "F4", "shape": [2, 8], "data_offsets": [0, 8]}}).encode()
    raw = len(header).to_bytes(8, "little") + header + bytes(8)
    (tmp_path / "m" / "model.safetensors").write_bytes(raw)
    with pytest.raises(NotACheckpoint, match=r"'w' as F4.*quantised"):
        Checkpoint.open(tmp_path / "m", dequantise=torch.bfloat16)


def test_the_dtype_that_is_asked_for_is_rounded_to_once(tmp_path: Path) -> None:
    stored, config = {UP: codes(8, 8), f"{UP}_scale": drawn(8, 1).abs()}, {"quantization_config": ROWS}
    path = folder(tmp_path / "m", stored, config)
    exact = stored[UP].double() * stored[f"{UP}_scale"].double()
    assert torch.equal(Checkpoint.open(path, dequantise=torch.float64)[UP], exact)
    assert torch.equal(Checkpoint.open(path, dequantise=torch.float32)[UP], exact.float())


def test_8_bits_with_a_scale_for_each_block_are_never_read_without_it(tmp_path: Path) -> None:
    """TensorRT-Model-Connect#1115: the codes were read as weights and the scales dropped, with exit code 0."""
    stored = {UP: codes(130, 256), f"{UP}_scale_inv": drawn(2, 2).abs()}
    with pytest.raises(NotACheckpoint, match="--dequantise"):
        Checkpoint.open(folder(tmp_path / "m", stored, {"quantization_config": BLOCKS}))
    with pytest.raises(NotACheckpoint, match="without its scales"):
        opened(tmp_path / "lost", {UP: stored[UP]}, BLOCKS)


def test_the_size_of_blocks_is_the_config_s_and_not_guessed(tmp_path: Path) -> None:
    """unsloth-zoo#803: 130 rows with two scales are blocks of 128 and 2, not twice 65; groups may say it."""
    stored = {UP: codes(130, 256), f"{UP}_scale": drawn(2, 2).abs()}
    found = opened(tmp_path / "m", stored, grouped(strategy="block", block_structure=[128, 128]))[UP]
    factors = spread(stored[f"{UP}_scale"], stored[UP].shape, 128, 128)
    assert torch.equal(found, (stored[UP].double() * factors).float().bfloat16())
    unsaid = {UP: stored[UP], f"{UP}_scale_inv": stored[f"{UP}_scale"]}
    with pytest.raises(NotACheckpoint, match="names no size of blocks"):
        opened(tmp_path / "unsaid", unsaid, None)


def test_scales_of_activations_are_left_out_and_said(tmp_path: Path) -> None:
    attention = "model.layers.0.self_attn"
    of_activations = {f"{attention}.k_proj.input_scale": torch.ones(1), f"{attention}.k_scale": torch.tensor(1.0)}
    stored = {UP: codes(4, 4), f"{UP}_scale": torch.ones(1), "model.layer_scale": torch.ones(4), **of_activations}
    found = opened(tmp_path / "m", stored, grouped(strategy="tensor"))
    assert set(found) == {UP, "model.layer_scale"}
    assert "2 scales of activations are left out" in found.remarks[0]


def test_weights_that_were_brought_back_already_are_read_as_they_are(tmp_path: Path) -> None:
    found = opened(tmp_path / "m", {UP: drawn(4, 4)}, BLOCKS)
    assert torch.equal(found[UP], drawn(4, 4))
    assert "quantization_config" not in found.config
