"""Quantised weights brought back to numbers when they are read: FP8 with scales, and MXFP4.

FP8: beside `NAME`, of 8-bit floats, lies `NAME_scale_inv` or `NAME_scale`, by which it is multiplied: one number, one
for each row, or one for each block of so many rows and columns (DeepSeek-V3, arXiv:2412.19437), the last of which may
be cut short. MXFP4 (OCP Microscaling Formats 1.0): `NAME_blocks` holds two codes of 4 bits a byte, the lower half
first, `NAME_scales` the exponent of 32 values, less 127; the rows of each expert's matrix become columns.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from redteam.checkpoint.quantised import quantisation, said_by, weights_in
from redteam.checkpoint.safetensors_io import shown
from redteam.checkpoint.tensors import Tensors, is_finite
from redteam.errors import NotACheckpoint

_EIGHT_BITS = {torch.float8_e4m3fn, torch.float8_e5m2, torch.float8_e4m3fnuz, torch.float8_e5m2fnuz}
_BYTES = {torch.uint8, torch.float8_e8m0fnu}
_E2M1 = (0.0, 0.5, 1.0, 1.5, 2.0, 3.0, 4.0, 6.0, -0.0, -0.5, -1.0, -1.5, -2.0, -3.0, -4.0, -6.0)
_GROUP = 32  # values with one exponent in MXFP4
_OF_ACTIVATIONS = re.compile(r"(^|[._])(input|output|activation|q|k|v|kv)_scale(_inv|_ub)?$|\.input_scale_ub$")
_OF_WEIGHTS = re.compile(r"(weight|proj)_scale$|_scale_inv$")
_BLOCK = (128, 128)  # what a config of the method fp8 means that says nothing
_ROWS = 2**21  # numbers that are computed at once


@dataclass(frozen=True)
class _Coded:
    """A weight and where its codes and scales are.

    Attributes:
        codes: Name of the tensor with the codes.
        scales: Name of the tensor with the scales.
        shape: Of the weight.
        block: Rows and columns with one scale; `None` for MXFP4.
        turned: Whether scales of an expert stand in a column though they belong to columns (fbgemm).
    """

    codes: str
    scales: str
    shape: tuple[int, ...]
    block: tuple[int, int] | None
    turned: bool = False


class Dequantised:
    """A source of plain weights below which quantised ones lie; what is not quantised is as it was.

    Args:
        stored: The quantised checkpoint.
        where: Its folder or file, for errors.
        dtype: In which the weights come. They are computed in float32, or in float64 where that is asked for.

    Raises:
        NotACheckpoint: If a weight has no scales, scales have no weight, or their shapes do not belong together; when
            a tensor is read, also if scales or results are not finite.
    """

    def __init__(self, stored: Tensors, where: Path, dtype: torch.dtype) -> None:
        self._stored, self._where, self._dtype = stored, where, dtype
        self._strategies, self._blocks = self._granularity(stored.config)
        self._coded: dict[str, _Coded] = {}
        for name in stored:
            if name.endswith("_blocks") and stored.dtype(name) in _BYTES:
                self._coded[name.removesuffix("_blocks")] = self._microscaled(name)
            elif stored.dtype(name) in _EIGHT_BITS and len(stored.shape(name)) > 1:
                self._coded[name] = self._scaled(name)
        used = {one.scales for one in self._coded.values()} | {one.codes for one in self._coded.values()}
        idle = {name for name in stored if _OF_ACTIVATIONS.search(name) and len(stored.shape(name)) < 2} - used
        plain = {name for name in stored if name not in used and name not in idle}
        for name in sorted(plain):
            if _OF_WEIGHTS.search(name) or (name.endswith("_scales") and stored.dtype(name) in _BYTES):
                raise self._wrong(f"holds the scales {shown(name)} and no quantised weight that they belong to")
        names = {one.codes: name for name, one in self._coded.items()}
        self._names = dict.fromkeys(names.get(name, name) for name in stored if name in names or name in plain)
        scheme = said_by(stored.config) or "FP8 or MXFP4"
        left = f"; {len(idle)} scales of activations are left out" if idle else ""
        self.remarks = [
            f"{len(self._coded)} of its weights are quantised ({scheme}), and read as {self._told()}{left}."
        ]

    def names(self) -> Mapping[str, Any]:
        return self._names

    def settings(self) -> dict[str, Any]:
        """The config of the plain model."""
        return _plain(self._stored.config)

    def shape(self, name: str) -> tuple[int, ...]:
        return self._coded[name].shape if name in self._coded else self._stored.shape(name)

    def dtype(self, name: str) -> torch.dtype:
        return self._dtype if name in self._coded else self._stored.dtype(name)

    def load(self, name: str) -> Tensor:
        if name not in self._names:
            raise KeyError(name)
        if name not in self._coded:
            return self._stored[name]
        one = self._coded[name]
        return self._numbers(one, self._stored[one.codes], self._stored[one.scales], one.shape)

    def part(self, name: str, place: int) -> Tensor:
        """One expert of several, from its own codes and scales."""
        if name not in self._coded:
            return self._stored.part(name, place)
        one = self._coded[name]
        if len(one.shape) != 3 or self._stored.shape(one.scales)[:1] != one.shape[:1]:
            return self.load(name)[place : place + 1]
        codes, scales = (self._stored.part(held, place) for held in (one.codes, one.scales))
        return self._numbers(one, codes, scales, (1, *one.shape[1:]))

    def _numbers(self, one: _Coded, codes: Tensor, scales: Tensor, shape: tuple[int, ...]) -> Tensor:
        """What codes and scales of a weight, or of a part of it, stand for."""
        out = torch.empty(shape, dtype=self._dtype)
        if one.block is None:
            exponents = scales.view(torch.uint8)
            if bool((exponents == 255).any()):
                raise self._wrong(f"holds the scales {shown(one.scales)}, some of which are NaN")
            _unpack(codes.view(torch.uint8), exponents, out)
        else:
            scales = torch.exp2(scales.float() - 127) if scales.dtype == torch.uint8 else scales
            wide = scales.to(torch.promote_types(self._dtype, torch.float32))
            if not bool(torch.isfinite(wide).all()):
                raise self._wrong(f"holds the scales {shown(one.scales)}, some of which are NaN or infinite")
            _multiply(codes, wide.mT if one.turned else wide, one.block, out)
        if not is_finite(out):
            raise self._wrong(f"holds {shown(one.codes)}, which does not come out as finite numbers in {self._told()}")
        return out

    def _told(self) -> str:
        return str(self._dtype).removeprefix("torch.")

    def _wrong(self, what: str) -> NotACheckpoint:
        return NotACheckpoint(f"{self._where} {what}; fetch or quantise the model again.")

    def _microscaled(self, codes: str) -> _Coded:
        name = codes.removesuffix("_blocks")
        scales = f"{name}_scales"
        if scales not in self._stored or self._stored.dtype(scales) not in _BYTES:
            raise self._wrong(f"holds {shown(codes)} without its scales, {shown(scales)}")
        if name in self._stored:
            raise self._wrong(f"holds {shown(name)} twice, quantised and not")
        packed, groups = self._stored.shape(codes), self._stored.shape(scales)
        if len(packed) != 4 or packed[:-1] != groups or packed[-1] * 2 != _GROUP:
            raise self._wrong(
                f"holds {shown(codes)}, {list(packed)}, with scales of {list(groups)}, where [experts, rows, groups, "
                f"{_GROUP // 2}] and [experts, rows, groups] were expected"
            )
        experts, rows, count, _ = packed
        return _Coded(codes, scales, (experts, count * _GROUP, rows), None)

    def _scaled(self, name: str) -> _Coded:
        found = [scales for end in ("_scale_inv", "_scale") if (scales := f"{name}{end}") in self._stored]
        if len(found) != 1:
            lacks = "without its scales" if not found else "with scales of two kinds"
            raise self._wrong(f"holds {shown(name)} of 8 bits {lacks}, {shown(f'{name}_scale_inv')} or …_scale")
        scales = found[0]
        dtype = self._stored.dtype(scales)
        shape, said = self._stored.shape(name), self._stored.shape(scales)
        if len(shape) > 3 or not (dtype.is_floating_point or dtype == torch.uint8):
            raise self._wrong(f"holds {shown(name)} of the shape {list(shape)} with scales in {dtype}")
        fitting = self._fitting(shape, said, scales.endswith("_inv"))
        if len(fitting) != 1:
            sizes = " or ".join(f"{rows}×{columns}" for rows, columns in sorted(self._blocks))
            how = f"in blocks of {sizes}" if sizes else "and a config that names no size of blocks (weight_block_size)"
            raise self._wrong(f"holds {shown(name)}, {list(shape)}, with scales of {list(said)} {how}: they do not fit")
        (block, turned) = fitting.pop()
        return _Coded(name, scales, shape, block, turned)

    def _fitting(
        self, shape: tuple[int, ...], scales: tuple[int, ...], inverse: bool
    ) -> set[tuple[tuple[int, int], bool]]:
        """How scales of a shape can be meant: rows and columns of a block, and whether they are turned."""
        rows, columns = shape[-2:]
        allowed = self._strategies or ({"block"} if inverse else {"tensor", "channel"})
        if "fbgemm" in allowed and len(shape) == 3:  # experts' columns are their outputs, and have a scale each
            fits = scales in ((shape[0], 1, columns), (shape[0], columns, 1))
            return {((max(1, rows), 1), scales[1] != 1)} if fits else set()
        fitting: set[tuple[tuple[int, int], bool]] = set()
        if "tensor" in allowed and math.prod(scales) == 1:
            fitting.add(((rows, columns), False))
        if "channel" in allowed and (scales == (*shape[:-1], 1) or (len(shape) == 2 and scales == (rows,))):
            fitting.add(((1, columns), False))
        for height, width in self._blocks if "block" in allowed else ():
            if scales == (*shape[:-2], -(-rows // height), -(-columns // width)):
                fitting.add(((min(height, rows), min(width, columns)), False))
        return {((max(1, height), max(1, width)), turned) for (height, width), turned in fitting}

    def _granularity(self, config: Mapping[str, Any]) -> tuple[set[str], set[tuple[int, int]]]:
        """What a config says of the scales of 8-bit weights: what has one, and the sizes of blocks."""
        strategies: set[str] = set()
        blocks: set[tuple[int, int]] = set()
        for settings in quantisation(config):
            method, size = settings.get("quant_method"), settings.get("weight_block_size")
            if method == "fp8" and "weight_block_size" not in settings:
                blocks |= {_BLOCK}
            elif method == "fp8" and size is not None:
                strategies, blocks = strategies | {"block"}, blocks | {self._size(size)}
            elif method == "fbgemm_fp8":
                strategies |= {"channel", "fbgemm"}
            elif method != "mxfp4":
                strategies |= {"tensor", "channel"} if method != "compressed-tensors" else set()
            for weights in weights_in(settings):
                strategy, group = weights.get("strategy"), weights.get("group_size")
                if strategy == "block":
                    strategies, blocks = strategies | {"block"}, blocks | {self._size(weights.get("block_structure"))}
                elif strategy == "group":
                    strategies, blocks = strategies | {"block"}, blocks | {self._size([1, group])}
                else:
                    strategies |= {str(strategy or "tensor")}
        return strategies, blocks

    def _size(self, said: Any) -> tuple[int, int]:
        pair = said.split("x") if isinstance(said, str) else said
        try:
            rows, columns = (int(extent) for extent in pair)
        except (TypeError, ValueError):
            rows = columns = 0
        if rows < 1 or columns < 1:
            raise self._wrong(f"has a quantization_config with blocks of the size {shown(said)}")
        return rows, columns


def _multiply(codes: Tensor, scales: Tensor, block: tuple[int, int], out: Tensor) -> None:
    """Writes codes × scales, a stretch of rows at a time.

    Args:
        codes: Of 8 bits, shape [rows, columns] or [experts, rows, columns].
        scales: One for each block, float32 or float64.
        block: Rows and columns of a block.
        out: Where to, of the shape of the codes.
    """
    if not codes.numel():
        return
    rows, columns = codes.shape[-2:]
    codes, out = codes.reshape(-1, rows, columns), out.view(-1, rows, columns)
    height, width = block
    grid = scales.reshape(-1, -(-rows // height), -(-columns // width)).expand(len(codes), -1, -1)
    across, down = torch.arange(columns) // width, torch.arange(rows) // height
    step = max(1, _ROWS // max(1, columns))
    for expert in range(len(codes)):
        factors = grid[expert][:, across]
        for start in range(0, rows, step):
            stretch = slice(start, start + step)
            out[expert, stretch] = codes[expert, stretch].to(factors.dtype).mul_(factors[down[stretch]])


def _unpack(codes: Tensor, exponents: Tensor, out: Tensor) -> None:
    """Writes the matrices that MXFP4 codes stand for, an expert at a time.

    Args:
        codes: uint8, [experts, rows, groups, 16].
        exponents: uint8, [experts, rows, groups].
        out: Where to, [experts, 32 groups, rows].
    """
    values = torch.tensor(_E2M1, dtype=torch.promote_types(out.dtype, torch.float32))
    bytes_ = torch.arange(256)
    pairs = torch.stack([values[bytes_ & 15], values[bytes_ >> 4]], dim=1)
    for expert in range(len(codes)):
        found = pairs[codes[expert].int()].flatten(2)  # [rows, groups, 32]
        power = exponents[expert].int().sub(127)[..., None]
        out[expert] = torch.ldexp(found, power).flatten(1).T


def _plain(config: Mapping[str, Any]) -> dict[str, Any]:
    left = {key: value for key, value in config.items() if key not in ("quantization_config", "compression_config")}
    return {k: _plain(v) if k.endswith("_config") and isinstance(v, Mapping) else v for k, v in left.items()}
