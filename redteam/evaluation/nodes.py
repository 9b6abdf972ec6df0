"""Cells: the units that are computed, named by a hash of everything their result depends on."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from redteam.evaluation.digest import engine_digest, versions


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
