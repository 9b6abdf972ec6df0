"""Every number that the scenario is made from, and which text."""

from __future__ import annotations

import dataclasses
import hashlib
import importlib.metadata
import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from redteam.errors import BadInput

VICTIM = "headers"


@dataclass(frozen=True)
class Source:
    """Where the text of a task, or that of pretraining, is found.

    Attributes:
        packages: Whose installed files are read, by the names that pip knows.
        suffixes: Of these files.
        docstrings: Whether only the docstrings of Python files are read.
    """

    packages: tuple[str, ...]
    suffixes: tuple[str, ...] = (".py",)
    docstrings: bool = False


@dataclass(frozen=True)
class Recipe:
    """Network, text and training.

    Attributes:
        vocabulary: Tokens of a byte-level BPE, learned from the pretraining text.
        width, layers, heads, groups, mlp: Of the network; `groups` is the number of key and value heads.
        length: Tokens of a document, the first of which says that it begins.
        general: What pretraining reads.
        domains: Task → what its documents are cut from.
        counts: Split → number of documents of each task.
        shares: Split → share of a task's files that its documents are cut from.
        file_documents: Split → the most documents that are cut from one file.
        stretch: Tokens of a run that two documents may share by chance.
        shared: Share of a document's runs, found in documents of another split, from which on it is left out.
        file_size: The most bytes of a file that is read.
        epsilon: Of AdamW.
        threads: Fixed, since their number changes the bits.
    """

    vocabulary: int = 1024
    width: int = 192
    layers: int = 5
    heads: int = 6
    groups: int = 2
    mlp: int = 512
    length: int = 64
    pretraining_steps: int = 1000
    pretraining_batch: int = 16
    pretraining_rate: float = 2e-3
    tuning_steps: dict[str, int] = field(default_factory=lambda: {"headers": 40, "manuals": 100, "stubs": 100})
    tuning_batch: int = 16
    tuning_rate: float = 3e-4
    epsilon: float = 1e-8
    threads: int = 1
    counts: dict[str, int] = field(default_factory=lambda: {"test": 160, "validation": 80, "train": 1600})
    shares: dict[str, float] = field(default_factory=lambda: {"test": 0.3, "validation": 0.2, "train": 0.5})
    file_documents: dict[str, int] = field(default_factory=lambda: {"test": 2, "validation": 2, "train": 40})
    stretch: int = 12
    shared: float = 0.25
    file_size: int = 400_000
    general: Source = field(
        default_factory=lambda: Source(
            (
                "jinja2",
                "matplotlib",
                "mlflow",
                "networkx",
                "optuna",
                "pandas",
                "pydantic",
                "rich",
                "sympy",
                "torch",
                "transformers",
                "typer",
            )
        )
    )
    domains: dict[str, Source] = field(
        default_factory=lambda: {
            "headers": Source(("torch",), (".h", ".hpp", ".cuh")),
            "manuals": Source(("numpy", "scikit-learn", "scipy"), docstrings=True),
            "stubs": Source(("matplotlib", "mlflow", "numpy", "pandas", "torch"), (".pyi",)),
        }
    )

    def constants(self) -> dict[str, Any]:
        """Every number and name, as JSON holds it."""
        return json.loads(json.dumps(dataclasses.asdict(self)))  # type: ignore[no-any-return]

    def versions(self) -> dict[str, str]:
        """Package → version, of all whose files are read, and of what learns the tokens.

        Raises:
            BadInput: If one of them is not installed.
        """
        sources = (self.general, *self.domains.values())
        return {name: _version(name) for name in sorted({"tokenizers", *(n for s in sources for n in s.packages)})}

    def address(self, seed: int) -> str:
        """What the results are stored under: a digest of numbers, seed, versions and the source that uses them.

        Raises:
            BadInput: As `versions`.
        """
        told = json.dumps([self.constants(), self.versions(), seed], sort_keys=True)
        digest = hashlib.sha256(told.encode())
        for name in ("recipe", "text", "documents", "training"):
            digest.update(Path(__file__).with_name(f"{name}.py").read_bytes().replace(b"\r\n", b"\n"))
        return digest.hexdigest()[:16]


def _version(package: str) -> str:
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        raise BadInput(
            f"The scenario causal reads files of the package {package}, which is not installed; install it."
        ) from None
