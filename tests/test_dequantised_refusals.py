"""Quantised weights are numbers or refused, by name: never half, whatever config and tensors say."""

from __future__ import annotations

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
)

WEIGHT = {UP: codes(8, 8)}
MX, FP4 = microscaled(2, 4, 1), {"quant_method": "mxfp4"}


@pytest.mark.parametrize(
    ("stored", "said", "why"),
    [
        (WEIGHT, BLOCKS, "without its scales"),
        ({f"{UP}_scale_inv": torch.ones(1, 1), "x.weight": codes(2, 2)}, BLOCKS, "without its scales"),
        ({f"{UP}_scale_inv": torch.ones(1, 1)}, BLOCKS, "no quantised weight"),
        ({f"{UP}_scale_inv": torch.ones(1, 1), UP: drawn(8, 8)}, BLOCKS, "no quantised weight"),
        ({**WEIGHT, f"{UP}_scale_inv": torch.ones(1, 1), f"{UP}_scale": torch.ones(1)}, BLOCKS, "two kinds"),
        ({**WEIGHT, f"{UP}_scale_inv": torch.ones(2, 1)}, BLOCKS, "do not fit"),
        ({**WEIGHT, f"{UP}_scale_inv": torch.ones(8, 1)}, BLOCKS, "do not fit"),
        ({**WEIGHT, f"{UP}_scale": torch.ones(1, 8)}, grouped(strategy="channel"), "do not fit"),
        ({**WEIGHT, f"{UP}_scale": torch.ones(3)}, ROWS, "do not fit"),
        ({**WEIGHT, f"{UP}_scale_inv": torch.full((1, 1), torch.nan)}, BLOCKS, "NaN"),
        ({**WEIGHT, f"{UP}_scale_inv": torch.full((1, 1), torch.inf)}, BLOCKS, "infinite"),
        ({**WEIGHT, f"{UP}_scale_inv": torch.full((1, 1), 1e38)}, BLOCKS, "finite numbers in bfloat16"),
        ({**WEIGHT, f"{UP}_scale_inv": torch.ones(1, 1, dtype=torch.int32)}, BLOCKS, "scales in torch.int32"),
        ({**WEIGHT, f"{UP}_scale_inv": torch.ones(1, 1)}, {**BLOCKS, "weight_block_size": [0, 128]}, "of the size"),
        ({**WEIGHT, f"{UP}_scale_inv": torch.ones(1, 1)}, {**BLOCKS, "weight_block_size": "big"}, "of the size"),
        ({f"{EXPERTS}_blocks": MX[f"{EXPERTS}_blocks"]}, FP4, "without its scales"),
        ({f"{EXPERTS}_scales": MX[f"{EXPERTS}_scales"]}, FP4, "no quantised weight"),
        ({**MX, EXPERTS: drawn(2, 32, 4)}, FP4, "twice"),
        (MX | {f"{EXPERTS}_scales": torch.ones(2, 4, 2, dtype=torch.uint8)}, FP4, "expected"),
        (MX | {f"{EXPERTS}_scales": torch.full((2, 4, 1), 255, dtype=torch.uint8)}, FP4, "NaN"),
        (
            MX | {f"{EXPERTS}_scales": torch.full((2, 4, 1), 254, dtype=torch.uint8)},
            {"quant_method": "mxfp4"},
            "finite",
        ),
    ],
)
def test_never_half(tmp_path: Path, stored: dict[str, Tensor], said: dict[str, Any], why: str) -> None:
    with pytest.raises(NotACheckpoint, match=why):
        dict(opened(tmp_path / "m", stored, said))


ODD = st.none() | st.integers(-2, 200) | st.sampled_from(["fp8", "mxfp4", "block", "128x128", "float", ""])
SAID = st.recursive(
    ODD,
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(
            st.sampled_from(
                [
                    "quant_method",
                    "weight_block_size",
                    "config_groups",
                    "weights",
                    "num_bits",
                    "type",
                    "strategy",
                    "format",
                ]
            ),
            inner,
            max_size=4,
        )
    ),
    max_leaves=8,
)
SIZES = st.lists(st.integers(0, 5), max_size=4)


@settings(max_examples=100, deadline=None)
@given(
    said=SAID,
    shape=SIZES,
    scales=SIZES,
    end=st.sampled_from(["_scale", "_scale_inv", "_blocks", "_scales", "_zero_point"]),
    dtype=st.sampled_from([torch.float32, torch.bfloat16, torch.uint8, torch.float8_e8m0fnu, torch.float8_e5m2]),
    method=st.sampled_from(["fp8", "fbgemm_fp8", "mxfp4", "compressed-tensors", "modelopt", None]),
)
def test_whatever_is_said_of_codes_they_are_numbers_or_refused(
    tmp_path_factory: pytest.TempPathFactory,
    said: Any,
    shape: list[int],
    scales: list[int],
    end: str,
    dtype: torch.dtype,
    method: str | None,
) -> None:
    config = {"quant_method": method, **said} if method and isinstance(said, dict) else said
    stored = {UP: codes(*shape), f"{UP}{end}": torch.ones(scales).to(dtype)}
    path = folder(tmp_path_factory.mktemp("odd") / "m", stored, {"quantization_config": config})
    try:
        found = Checkpoint.open(path, dequantise=torch.bfloat16)
        tensors = dict(found)
    except NotACheckpoint as error:
        told = str(error)
    else:
        told = ""
        assert all(tuple(tensor.shape) == found.shape(name) for name, tensor in tensors.items())
        assert len(shape) < 2 or tensors[UP].dtype == torch.bfloat16 or not isinstance(config, dict)
    assert "\n" not in told


CODES = torch.randint(-100, 100, (8, 8), dtype=torch.int8, generator=torch.Generator().manual_seed(0))


@pytest.mark.parametrize(
    ("stored", "said", "scheme"),
    [
        ({UP: CODES, UP.replace("weight", "SCB"): torch.rand(8)}, {"quant_method": "bitsandbytes"}, "bitsandbytes"),
        ({UP: CODES, f"{UP}_scale": torch.rand(8, 1)}, grouped(num_bits=8, type="int"), "compressed-tensors"),
        ({UP: CODES, f"{UP}_scale": torch.rand(8, 1)}, None, "FP8 or compressed-tensors"),
        ({UP: CODES, f"{UP}_scale_inv": torch.rand(8, 1)}, BLOCKS, "fp8"),
        ({**WEIGHT, f"{UP}_scale": torch.rand(1)}, grouped(num_bits=4), "compressed-tensors, float-quantized"),
        (
            {**WEIGHT, f"{UP}_scale": torch.rand(1)},
            {"quant_method": "modelopt", "quant_algo": "NVFP4"},
            "modelopt, NVFP4",
        ),
        ({**WEIGHT, f"{UP}_scale": torch.rand(1)}, {"quant_method": "torchao"}, "torchao"),
        ({UP.replace("weight", "qweight"): CODES.int()}, {"quant_method": "gptq"}, "gptq"),
        ({UP.replace("weight", "qweight"): CODES.int()}, {"quant_method": "awq"}, "awq"),
    ],
)
def test_other_schemes_are_refused_by_name(
    tmp_path: Path, stored: dict[str, Tensor], said: dict[str, Any] | None, scheme: str
) -> None:
    path = folder(tmp_path / "m", stored, {} if said is None else {"quantization_config": said})
    with pytest.raises(NotACheckpoint, match=rf"quantised \({scheme}.*--dequantise reads FP8 .* alone; expected"):
        Checkpoint.open(path, dequantise=torch.bfloat16)
    with pytest.raises(NotACheckpoint, match=rf"quantised \({scheme}") as told:
        Checkpoint.open(path)
    assert "--dequantise" not in str(told.value)
