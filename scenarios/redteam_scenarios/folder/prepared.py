"""Data as the network takes them, made once and kept under a digest of everything that they are made from."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any

import torch

from redteam.files import write_atomically
from redteam_scenarios.caching import cache_root, read, whole, write

Parts = dict[str, tuple[dict[str, torch.Tensor], torch.Tensor]]
"""Split → inputs and labels."""

_LABELS = "labels"


def prepared(make: Callable[[], Parts], *, made_from: Mapping[str, Any], files: Iterable[Path]) -> Parts:
    """What `make` gives, from the cache where it was given before.

    Args:
        make: Reads the data and the tools to read them with.
        made_from: Settings that it depends on, as plain values.
        files: Files that it depends on.
    """
    folder = cache_root() / "folder" / _address(made_from, files)
    if not folder.is_dir():
        with whole(folder) as work:
            parts = make()
            write(
                work / "data.safetensors",
                {
                    f"{split}/{name}": tensor.contiguous()
                    for split, (inputs, labels) in parts.items()
                    for name, tensor in ({**inputs, _LABELS: labels}).items()
                },
            )
    held: dict[str, dict[str, torch.Tensor]] = {}
    for name, tensor in read(folder / "data.safetensors").items():
        split, _, what = name.partition("/")
        held.setdefault(split, {})[what] = tensor
    return {split: (tensors, tensors.pop(_LABELS)) for split, tensors in held.items()}


def _address(made_from: Mapping[str, Any], files: Iterable[Path]) -> str:
    import transformers

    content = {"made_from": made_from, "transformers": transformers.__version__, "torch": torch.__version__}
    return hashlib.sha256(f"{json.dumps(content, sort_keys=True)}{_content(files)}".encode()).hexdigest()[:32]


def _content(files: Iterable[Path]) -> str:
    """A digest of what is in the files, read anew only where a name, size or time is another."""
    files = list(files)
    states = [(str(path.resolve()), found.st_size, found.st_mtime_ns) for path in files if (found := path.stat())]
    kept = cache_root() / "folder" / ".digests" / hashlib.sha256(json.dumps(states).encode()).hexdigest()[:32]
    if kept.is_file():
        return kept.read_text(encoding="utf-8")
    digest = hashlib.sha256()
    for path in files:
        with path.open("rb") as file:
            digest.update(hashlib.file_digest(file, "sha256").digest())
    write_atomically(kept, digest.hexdigest())
    return digest.hexdigest()
