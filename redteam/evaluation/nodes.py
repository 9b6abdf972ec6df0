"""Cells: the units that are computed, named by a hash of everything their result depends on."""

from __future__ import annotations

import hashlib
import importlib.metadata
import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path
from typing import Any

import redteam

NUMERICAL = (
    "checkpoint.py",
    "storage.py",
    "adapters.py",
    "formats.py",
    "folders.py",
    "overlays.py",
    "networks.py",
    "tasks.py",
    "training.py",
    "key.py",
    "views.py",
    "threat.py",
    "anatomy",
    "symmetry",
    "evaluation/bits.py",
    "evaluation/measures.py",
    "evaluation/stages.py",
)
"""The engine's files, and folders, on which numbers depend."""

VERSIONS = ("torch", "transformers", "numpy", "scipy")
"""The libraries on whose versions numbers depend."""


@dataclass(frozen=True)
class Node:
    """One cell.

    Attributes:
        kind: Which stage computes it (`redteam.evaluation.stages`).
        label: What progress lines call it.
        settings: What it depends on beside its inputs, as plain values.
        inputs: Role → name of the cell it takes.
        how: What a worker needs to find plugins (references, folders); names nothing new.
        makes: Whether it makes a checkpoint that other cells read.
        name: The hash.
    """

    kind: str
    label: str
    settings: Mapping[str, Any]
    inputs: Mapping[str, str] = field(default_factory=dict)
    how: Mapping[str, Any] = field(default_factory=dict)
    makes: bool = False
    name: str = ""

    @classmethod
    def of(cls, kind: str, label: str, *, settings: Mapping[str, Any], **rest: Any) -> Node:
        """A cell under its name."""
        name = content_name(kind, {"settings": settings, "inputs": rest.get("inputs", {})})
        return cls(kind, label, settings, name=name, **rest)


def content_name(kind: str, depends: Mapping[str, Any]) -> str:
    """The hash of what a computation depends on; engine and versions of libraries are added here."""
    content = {"kind": kind, **depends, "engine": engine_digest(), "versions": versions()}
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()[:32]


@lru_cache(maxsize=1)
def engine_digest() -> str:
    """SHA-256 of the engine's numerical parts, in hexadecimal."""
    root = Path(redteam.__file__).parent
    digest = hashlib.sha256()
    for part in NUMERICAL:
        path = root / part
        for file in sorted(path.rglob("*.py")) if path.is_dir() else [path]:
            digest.update(f"{file.relative_to(root).as_posix()}\0".encode() + file.read_bytes())
    return digest.hexdigest()


@lru_cache(maxsize=1)
def versions() -> dict[str, str]:
    """The versions of the libraries on which numbers depend."""
    return {name: importlib.metadata.version(name) for name in VERSIONS}
