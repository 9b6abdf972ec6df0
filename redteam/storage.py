"""Where a checkpoint's tensors lie: in memory or in safetensors files. Reads lazily, writes tensor by tensor."""

from __future__ import annotations

import json
import struct
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Protocol

import torch

from redteam.errors import NotACheckpoint

DTYPES: dict[str, torch.dtype] = {
    "F64": torch.float64,
    "F32": torch.float32,
    "F16": torch.float16,
    "BF16": torch.bfloat16,
    "I64": torch.int64,
    "I32": torch.int32,
    "I16": torch.int16,
    "I8": torch.int8,
    "U8": torch.uint8,
    "BOOL": torch.bool,
}
_LARGEST_HEADER = 100_000_000


class Source(Protocol):
    """What a checkpoint needs of the place where its tensors lie."""

    def names(self) -> Any:
        """The names, as an iterable with a length and fast membership."""

    def load(self, name: str) -> torch.Tensor:
        """One tensor. Raises KeyError for an unknown name."""

    def shape(self, name: str) -> tuple[int, ...]:
        """Its shape, without reading it."""

    def dtype(self, name: str) -> torch.dtype:
        """Its dtype, without reading it."""


class Memory:
    """Tensors in memory."""

    def __init__(self, tensors: dict[str, torch.Tensor]) -> None:
        self._tensors = tensors

    def names(self) -> Mapping[str, torch.Tensor]:
        return self._tensors

    def load(self, name: str) -> torch.Tensor:
        return self._tensors[name].clone()  # a plugin that writes into what it was given spoils nobody else's

    def shape(self, name: str) -> tuple[int, ...]:
        return tuple(self._tensors[name].shape)

    def dtype(self, name: str) -> torch.dtype:
        return self._tensors[name].dtype


class Files:
    """Tensors in one safetensors file or in several."""

    def __init__(self, paths: list[Path]) -> None:
        self._entries: dict[str, tuple[Path, dict[str, Any]]] = {}
        for path in paths:
            for name, entry in read_header(path).items():
                if name in self._entries:
                    raise NotACheckpoint(
                        f"Tensor {name!r} is in {self._entries[name][0].name} and in {path.name}; expected it once."
                    )
                self._entries[name] = (path, entry)

    @classmethod
    def find(cls, path: Path) -> Files:
        """The safetensors files that `path`, a folder or a file, stands for.

        Raises:
            NotACheckpoint: If there are none, or they cannot be read, or an index points elsewhere.
        """
        if path.is_file():
            return cls([path])
        if not path.is_dir():
            raise NotACheckpoint(
                f"{path} does not exist; expected a folder with model.safetensors, or a safetensors file."
            )
        index = path / "model.safetensors.index.json"
        if index.is_file():
            return cls([_inside(path, name) for name in _shards(index)])
        if (path / "model.safetensors").is_file():
            return cls([path / "model.safetensors"])
        pickled = sorted(p.name for p in path.glob("*.bin")) + sorted(p.name for p in path.glob("*.pt"))
        why = f"{pickled[0]} is a pickle, which is never loaded" if pickled else "no model.safetensors is in it"
        raise NotACheckpoint(f"{path} is no checkpoint ({why}); expected a folder with model.safetensors.")

    def names(self) -> Mapping[str, Any]:
        return self._entries

    def load(self, name: str) -> torch.Tensor:
        from safetensors import SafetensorError, safe_open

        path = self._entries[name][0]
        try:
            with safe_open(path, framework="pt") as file:
                return file.get_tensor(name)  # type: ignore[no-any-return]
        except (SafetensorError, OSError) as error:
            raise NotACheckpoint(f"{path} cannot be read ({error}); fetch the file again.") from None

    def shape(self, name: str) -> tuple[int, ...]:
        return tuple(self._entries[name][1]["shape"])

    def dtype(self, name: str) -> torch.dtype:
        return DTYPES[self._entries[name][1]["dtype"]]


def read_header(path: Path) -> dict[str, dict[str, Any]]:
    """The header of a safetensors file: name → dtype, shape and place.

    Raises:
        NotACheckpoint: If the file is truncated, or its header is not one.
    """
    try:
        size = path.stat().st_size
        with path.open("rb") as file:
            first = file.read(8)
            length = struct.unpack("<Q", first)[0] if len(first) == 8 else 0
            if not 2 <= length <= min(_LARGEST_HEADER, size - 8):
                raise NotACheckpoint(f"{path} is not a safetensors file, or is cut off; fetch the file again.")
            header = json.loads(file.read(length))
        header.pop("__metadata__", None)
        for name, entry in header.items():
            start, end = entry["data_offsets"]
            if entry["dtype"] not in DTYPES:
                raise NotACheckpoint(f"{path} holds {name!r} as {entry['dtype']}; expected one of {', '.join(DTYPES)}.")
            if not 0 <= start <= end <= size - 8 - length:
                raise NotACheckpoint(f"{path} is cut off: {name!r} should end at byte {end}; fetch the file again.")
    except OSError as error:
        raise NotACheckpoint(f"{path} cannot be read ({error.strerror}); expected a safetensors file.") from None
    except (ValueError, KeyError, TypeError, AttributeError):
        raise NotACheckpoint(f"{path} has a damaged safetensors header; fetch the file again.") from None
    return header  # type: ignore[no-any-return]


def write_safetensors(path: Path, tensors: Any) -> None:
    """Writes a checkpoint (or any mapping with `shape` and `dtype`) tensor by tensor, one in memory at a time."""
    codes = {dtype: code for code, dtype in DTYPES.items()}
    header: dict[str, Any] = {"__metadata__": {"format": "pt"}}
    offset = 0
    for name in tensors:
        shape, dtype = tensors.shape(name), tensors.dtype(name)
        size = dtype.itemsize
        for extent in shape:
            size *= extent
        header[name] = {"dtype": codes[dtype], "shape": list(shape), "data_offsets": [offset, offset + size]}
        offset += size
    text = json.dumps(header, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)
    with path.open("wb") as file:
        file.write(struct.pack("<Q", len(text)) + text)
        for name in tensors:
            tensor = tensors[name].detach().cpu().contiguous()
            file.write(tensor.reshape(-1).view(torch.uint8).numpy().data)


def _shards(index: Path) -> list[str]:
    try:
        return sorted(set(json.loads(index.read_text(encoding="utf-8"))["weight_map"].values()))
    except (ValueError, KeyError, AttributeError, TypeError):
        raise NotACheckpoint(f"{index} is not a readable index of shards; fetch the file again.") from None


def _inside(folder: Path, name: str) -> Path:
    path = folder / name
    if not path.resolve().is_relative_to(folder.resolve()):
        raise NotACheckpoint(
            f"The index in {folder} points outside the folder ({name!r}); such a checkpoint is refused."
        )
    if not path.is_file():
        raise NotACheckpoint(f"The index in {folder} names {name!r}, which is missing; fetch the file.")
    return path
