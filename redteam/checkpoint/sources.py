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

    def part(self, name: str, place: int) -> torch.Tensor:
        return self._tensors[name][place : place + 1].clone()

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
        remarks: What is odd and can be read nevertheless, in sentences.

    Raises:
        NotACheckpoint: If a file is damaged, or a tensor is there twice and no index says which one counts.
    """

    def __init__(self, found: Found) -> None:
        self.headers: dict[Path, Header] = {path: read_header(path) for path in found.weights}
        self.remarks = list(found.remarks)
        self._entries: dict[str, tuple[Path, Entry]] = {}
        self._called = {path: found.name_of(path) for path in found.weights}
        meant = found.weight_map or {}
        for path, header in self.headers.items():
            for name, entry in header.entries.items():
                if name in self._entries:
                    here, there = self._called[path], self._called[self._entries[name][0]]
                    if meant.get(name) in (here, there):
                        if meant[name] == here:
                            self._entries[name] = (path, entry)
                        continue
                    raise NotACheckpoint(
                        f"Tensor {shown(name)} is in {there} and in {here}; expected it once; fetch the files again."
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

    def part(self, name: str, place: int) -> torch.Tensor:
        path, entry = self._entries[name]
        return read_tensor(path, entry.part(place))

    def shape(self, name: str) -> tuple[int, ...]:
        return self._entries[name][1].shape

    def dtype(self, name: str) -> torch.dtype:
        return self._entries[name][1].dtype

    def size(self, name: str) -> int:
        """Its bytes."""
        entry = self._entries[name][1]
        return entry.end - entry.start

    def held(self) -> dict[str, tuple[str, ...]]:
        """File, as an index calls it → the tensors that are read from it, in the order in which they lie there."""
        return {
            self._called[path]: tuple(name for name in header.entries if self._entries[name][0] == path)
            for path, header in self.headers.items()
        }

    def _agree(self, weight_map: Mapping[str, str]) -> None:
        """Notes where index and files differ: loaders read all that the files hold, and so it is done here."""
        stale = [name for name, file in weight_map.items() if name not in self._entries]
        files = {name: self._called[path] for name, (path, _) in self._entries.items()}
        moved = [name for name, file in files.items() if weight_map.get(name, file) != file]
        unsaid = [name for name in self._entries if name not in weight_map]
        for names, what in (
            (stale, "which no file holds"),
            (moved, "which another file holds than it says"),
            (unsaid, "of which it says nothing, though a file holds them"),
        ):
            if names:
                some = ", ".join(map(shown, names[:3])) + (", …" if len(names) > 3 else "")
                verb = "lacks" if names is unsaid else "names"
                self.remarks.append(f"The index {verb} {some}, {what}.")
