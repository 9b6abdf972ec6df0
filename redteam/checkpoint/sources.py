"""Where a checkpoint's tensors lie: in memory or in safetensors files. Reads lazily, one tensor at a time."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, Protocol

import torch

from redteam.checkpoint.discover import Found, find
from redteam.checkpoint.safetensors_io import DTYPES, Entry, Header, read_header, read_tensor, shown
from redteam.errors import NotACheckpoint

__all__ = ["DTYPES", "Files", "Memory", "Source"]


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

    def rough(self, name: str) -> torch.Tensor:
        return self._tensors[name]

    def shape(self, name: str) -> tuple[int, ...]:
        return tuple(self._tensors[name].shape)

    def dtype(self, name: str) -> torch.dtype:
        return self._tensors[name].dtype


class Files:
    """Tensors in one safetensors file or in several.

    Args:
        found: Which files, and the index of shards where there is one.

    Attributes:
        headers: File → header, in the order of the files' names.

    Raises:
        NotACheckpoint: If a file is damaged, a tensor is there twice, or files and index disagree.
    """

    def __init__(self, found: Found) -> None:
        self.headers: dict[Path, Header] = {path: read_header(path) for path in found.weights}
        self._entries: dict[str, tuple[Path, Entry]] = {}
        for path, header in self.headers.items():
            for name, entry in header.entries.items():
                if name in self._entries:
                    raise NotACheckpoint(
                        f"Tensor {shown(name)} is in {self._entries[name][0].name} and in {path.name}; expected it "
                        "once; fetch the files again."
                    )
                self._entries[name] = (path, entry)
        if found.weight_map is not None:
            self._agree(found.weight_map)

    @classmethod
    def find(cls, path: Path) -> Files:
        """The tensors of a folder or a file.

        Raises:
            NotACheckpoint: If there are none, or they cannot be read, or an index points elsewhere.
        """
        return cls(find(path))

    def names(self) -> Mapping[str, Any]:
        return self._entries

    def load(self, name: str) -> torch.Tensor:
        return read_tensor(*self._entries[name])

    def shape(self, name: str) -> tuple[int, ...]:
        return self._entries[name][1].shape

    def dtype(self, name: str) -> torch.dtype:
        return self._entries[name][1].dtype

    def _agree(self, weight_map: Mapping[str, str]) -> None:
        for name, file in weight_map.items():
            path = self._entries[name][0] if name in self._entries else None
            if path is None or path.name != file:
                raise NotACheckpoint(
                    f"The index says that {shown(name)} is in {shown(file)}, which lacks it; fetch the files again."
                )
        for name, (path, _) in self._entries.items():
            if name not in weight_map:
                raise NotACheckpoint(
                    f"{path} holds {shown(name)}, of which the index says nothing; fetch the files again."
                )
