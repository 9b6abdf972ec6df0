"""Data as the network takes them, made once and kept under a digest of everything that they are made from."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any

import torch

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
    digest = hashlib.sha256(json.dumps(content, sort_keys=True).encode())
    for path in files:
        with path.open("rb") as file:
            digest.update(hashlib.file_digest(file, "sha256").digest())
    return digest.hexdigest()[:32]
