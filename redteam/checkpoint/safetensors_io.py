"""The two formats that are read, safetensors and JSON, as strictly as files from strangers ask for."""

from __future__ import annotations

import json
import math
import os
import struct
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple

import torch

from redteam.checkpoint.tensors import Tensors
from redteam.errors import NotACheckpoint, PluginFault

DTYPES: dict[str, torch.dtype] = {
    "F64": torch.float64,
    "F32": torch.float32,
    "F16": torch.float16,
    "BF16": torch.bfloat16,
    "F8_E4M3": torch.float8_e4m3fn,
    "F8_E5M2": torch.float8_e5m2,
    "F8_E4M3FNUZ": torch.float8_e4m3fnuz,
    "F8_E5M2FNUZ": torch.float8_e5m2fnuz,
    "F8_E8M0": torch.float8_e8m0fnu,
    "C64": torch.complex64,
    "I64": torch.int64,
    "I32": torch.int32,
    "I16": torch.int16,
    "I8": torch.int8,
    "U64": torch.uint64,
    "U32": torch.uint32,
    "U16": torch.uint16,
    "U8": torch.uint8,
    "BOOL": torch.bool,
}
_SHARING = ("F4", "F6_E2M3", "F6_E3M2")
CODES = {dtype: code for code, dtype in DTYPES.items()}

LARGEST_HEADER = 2**24  # a hundred thousand tensors in one file need less
LARGEST_CONFIG = 2**23  # names of twenty thousand classes need less
LARGEST_INDEX = 2**26
_MOST_AXES = 32
_LONGEST_NAME = 1024


class Entry(NamedTuple):
    """Where a tensor lies: bytes `start` to `end` of its file."""

    dtype: torch.dtype
    shape: tuple[int, ...]
    start: int
    end: int

    def part(self, place: int) -> Entry:
        """Where one slice of the first dimension lies, which stays."""
        size = (self.end - self.start) // self.shape[0]
        start = self.start + place * size
        return Entry(self.dtype, (1, *self.shape[1:]), start, start + size)


@dataclass(frozen=True)
class Header:
    """What the header of a safetensors file says.

    Attributes:
        entries: Name → place, in the order in which the tensors lie in the file.
        metadata: What its `__metadata__` holds.
    """

    entries: Mapping[str, Entry]
    metadata: Mapping[str, str]


def shown(name: object) -> str:
    """A name from a file, fit for a sentence: quoted, control characters escaped, not endless."""
    text = repr(name) if not isinstance(name, str) else repr(name[:80] + ("…" if len(name) > 80 else ""))
    return text if len(text) <= 200 else text[:200] + "…"


def read_header(path: Path) -> Header:
    """The header of a safetensors file, checked against the file's size.

    Raises:
        NotACheckpoint: If the file is cut off, its header is not one, or its tensors overlap or leave holes.
    """
    try:
        with path.open("rb") as file:
            size = os.fstat(file.fileno()).st_size
            first = file.read(8)
            length = struct.unpack("<Q", first)[0] if len(first) == 8 else 0
            if not 2 <= length <= size - 8:
                raise NotACheckpoint(f"{path} is not a safetensors file, or is cut off; fetch the file again.")
            if length > LARGEST_HEADER:
                raise NotACheckpoint(
                    f"{path} has a header of {length} bytes; expected at most {LARGEST_HEADER}; split it into shards."
                )
            text = file.read(length)
    except OSError as error:
        raise NotACheckpoint(f"{path} cannot be read ({error.strerror}); expected a safetensors file.") from None
    raw = _parsed(text, path, "safetensors header", unique=True)
    metadata = raw.pop("__metadata__", None) or {}  # some writers put null
    if not isinstance(metadata, dict) or not all(isinstance(value, str) for value in metadata.values()):
        raise NotACheckpoint(f"{path} has a damaged safetensors header (__metadata__); fetch the file again.")
    entries = {name: _entry(path, name, entry, 8 + length) for name, entry in raw.items()}
    ordered = sorted(entries.items(), key=lambda item: (item[1].start, item[1].end))
    place = 8 + length
    for name, entry in ordered:
        if entry.end > size:
            raise NotACheckpoint(
                f"{path} is cut off: {shown(name)} should end at byte {entry.end} of {size}; fetch the file again."
            )
        if entry.start != place:
            what = "overlaps the tensor before it" if entry.start < place else "leaves a hole before it"
            raise NotACheckpoint(f"{path} has a damaged safetensors header ({shown(name)} {what}); fetch it again.")
        place = entry.end
    if place != size:
        raise NotACheckpoint(f"{path} has {size - place} bytes that belong to no tensor; fetch the file again.")
    return Header(dict(ordered), metadata)


def _entry(path: Path, name: str, raw: Any, origin: int) -> Entry:
    def wrong(what: str) -> NotACheckpoint:
        return NotACheckpoint(f"{path} has a damaged safetensors header ({shown(name)} {what}); fetch the file again.")

    try:
        name.encode()
        code, shape, (start, end) = raw["dtype"], raw["shape"], raw["data_offsets"]
    except (KeyError, TypeError, ValueError):
        raise wrong("is not described as a tensor") from None
    if len(name) > _LONGEST_NAME:
        raise wrong("has a name that no tensor has")
    if code in _SHARING:
        raise NotACheckpoint(
            f"{path} holds {shown(name)} as {code}, whose codes share bytes: its weights are quantised; expected the "
            "model before that."
        )
    if not isinstance(code, str) or code not in DTYPES:
        raise NotACheckpoint(f"{path} holds {shown(name)} as {shown(code)}; expected one of {', '.join(DTYPES)}.")
    if not isinstance(shape, list) or not all(type(extent) is int and 0 <= extent < 2**63 for extent in shape):
        raise wrong("has a shape that is no list of sizes")
    if len(shape) > _MOST_AXES or math.prod(extent or 1 for extent in shape) >= 2**63:
        raise wrong("has a shape that no tensor has")
    if type(start) is not int or type(end) is not int or not 0 <= start <= end < 2**62:
        raise wrong("has no place in the file")
    if end - start != math.prod(shape) * DTYPES[code].itemsize:
        raise wrong(f"has {end - start} bytes for the shape {shape} in {code}")
    return Entry(DTYPES[code], tuple(shape), origin + start, origin + end)


def read_tensor(path: Path, entry: Entry) -> torch.Tensor:
    """The tensor at a place, on the CPU, read straight into its memory.

    Raises:
        NotACheckpoint: If it cannot be read, or is larger than this machine's memory.
    """
    count = entry.end - entry.start
    if count > _memory():
        raise NotACheckpoint(f"{path} holds a tensor of {count} bytes, more than this machine's memory; split it.")
    try:
        buffer = torch.empty(count, dtype=torch.uint8)
        if count:
            _fill(path, entry.start, memoryview(buffer.numpy()))  # type: ignore[arg-type]
    except (OSError, RuntimeError) as error:
        why = getattr(error, "strerror", None) or str(error).split("\n")[0]
        raise NotACheckpoint(f"{path} cannot be read ({why}); fetch the file again.") from None
    if entry.dtype == torch.bool:
        return (buffer != 0).reshape(entry.shape)
    return buffer.view(entry.dtype).reshape(entry.shape)


def _fill(path: Path, start: int, target: memoryview) -> None:
    with path.open("rb", buffering=0) as file:
        file.seek(start)
        done = 0
        while done < len(target):
            got = file.readinto(target[done:])
            if not got:
                raise OSError(0, "it became shorter while it was read")
            done += got


def _memory() -> int:
    try:
        return os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    except (AttributeError, ValueError, OSError):
        return 2**62


def size_of(tensors: Tensors, name: str) -> int:
    """Bytes of a tensor, without reading it."""
    return math.prod(tensors.shape(name)) * tensors.dtype(name).itemsize


def write_safetensors(
    file: BinaryIO,
    tensors: Tensors,
    names: Iterable[str],
    *,
    metadata: Mapping[str, str],
    done: Callable[[str], None] = lambda _: None,
) -> None:
    """Writes some tensors in the order of their names, one in memory at a time.

    Args:
        file: Where to.
        tensors: Where from.
        names: Which, in which order.
        metadata: For the header.
        done: Called with each name when its tensor is written.

    Raises:
        PluginFault: If a tensor has another shape or dtype than was announced.
    """
    names = tuple(names)
    header: dict[str, Any] = {"__metadata__": dict(metadata)} if metadata else {}
    offset = 0
    for name in names:
        end = offset + size_of(tensors, name)
        if tensors.dtype(name) not in CODES:
            raise PluginFault(f"Tensor {shown(name)} is {tensors.dtype}, which safetensors files do not hold; cast it.")
        code = CODES[tensors.dtype(name)]
        header[name] = {"dtype": code, "shape": list(tensors.shape(name)), "data_offsets": [offset, end]}
        offset = end
    text = json.dumps(header, separators=(",", ":"), ensure_ascii=False).encode()
    text += b" " * (-len(text) % 8)
    file.write(struct.pack("<Q", len(text)) + text)
    for name in names:
        tensor = tensors[name].detach()
        if tuple(tensor.shape) != tensors.shape(name) or tensor.dtype != tensors.dtype(name):
            raise PluginFault(
                f"Tensor {shown(name)} came as {tensor.dtype} {tuple(tensor.shape)}; expected {tensors.dtype(name)} "
                f"{tensors.shape(name)}, as the checkpoint said before it was read."
            )
        file.write(tensor.cpu().contiguous().reshape(-1).view(torch.uint8).numpy().data)
        del tensor
        done(name)


def write_whole(path: Path, tensors: Tensors, progress: Callable[[int, int, str], None]) -> None:
    """Writes all tensors into one file that names torch as its framework, as transformers and PEFT expect.

    Args:
        path: The file.
        tensors: Where from; a tensor in memory at a time.
        progress: Called as `progress(done, total, name)` after each tensor.

    Raises:
        PluginFault: As `write_safetensors`.
    """
    names = tuple(tensors)
    done = iter(range(1, len(names) + 1))
    with path.open("wb") as file:
        write_safetensors(
            file,
            tensors,
            names,
            metadata={"format": "pt"},
            done=lambda name: progress(next(done), len(names), name),
        )


def read_json(path: Path, *, largest: int = LARGEST_CONFIG, unique: bool = False) -> dict[str, Any]:
    """The object in a JSON file.

    Args:
        path: The file.
        largest: Bytes that it may have.
        unique: Whether a name that is given twice, which readers may understand differently, is refused.

    Raises:
        NotACheckpoint: If the file is too large, not UTF-8, no JSON, no object, or holds NaN.
    """
    try:
        with path.open("rb") as file:
            large = os.fstat(file.fileno()).st_size > largest
            text = b"" if large else file.read()
    except OSError as error:
        raise NotACheckpoint(f"{path} cannot be read ({error.strerror}); restore the file.") from None
    if large:
        raise NotACheckpoint(f"{path} has more than {largest} bytes, too many to be true; restore the file.")
    return _parsed(text, path, "JSON", unique=unique)


def write_json(path: Path, value: Mapping[str, Any], *, sort: bool = False) -> None:
    """Writes a JSON file as Hugging Face's libraries do."""
    path.write_text(json.dumps(value, indent=2, sort_keys=sort) + "\n", encoding="utf-8")


def _parsed(text: bytes, path: Path, what: str, *, unique: bool = False) -> dict[str, Any]:
    """A JSON object; `unique` refuses a name that is given twice, and infinities."""

    def pairs(items: list[tuple[str, Any]]) -> dict[str, Any]:
        found: dict[str, Any] = {}
        for name, value in items:
            if name in found:
                raise NotACheckpoint(f"{path} names {shown(name)} twice; expected it once; fetch the file again.")
            found[name] = value
        return found

    def constant(name: str) -> float:
        if unique or name == "NaN":
            raise ValueError(f"{name} is no number")
        return float(name)  # published Mamba configs hold Infinity

    try:
        value = json.loads(text.decode("utf-8"), object_pairs_hook=pairs if unique else None, parse_constant=constant)
    except (ValueError, RecursionError) as error:
        why = "nested too deeply" if isinstance(error, RecursionError) else str(error)[:200]
        raise NotACheckpoint(f"{path} is not readable as {what} ({why}); fetch the file again.") from None
    if not isinstance(value, dict):
        raise NotACheckpoint(f"{path} is not readable as {what} (expected an object); fetch the file again.")
    return value
