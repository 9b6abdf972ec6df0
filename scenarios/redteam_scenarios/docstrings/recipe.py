"""Every number and word that the scenario is made from."""

from __future__ import annotations

import dataclasses
import hashlib
import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

VICTIM = "parts"
_SOURCES = ("recipe", "reading", "texts", "data", "training")


@dataclass(frozen=True)
class Asked:
    """What is asked of a text.

    Attributes:
        classes: The answers, in the order of the head's rows.
        removed: A regular expression of words that give the answer away.
        test: How many texts there are to be scored on, at most; equally many of each class.
    """

    classes: tuple[str, ...]
    removed: str
    test: int


TASKS: Mapping[str, Asked] = {
    "parts": Asked(
        ("summary", "parameter", "return"),
        r"summary|parameters?|params?|arg(ument)?s?|return(s|ed|ing)?|outputs?|inputs?|optional|defaults?",
        1000,
    ),
    "libraries": Asked(
        ("matplotlib", "numpy", "pandas", "scipy", "sklearn"),
        r"matplotlib|mpl|pyplot|plt|numpy|np|pandas|pd|scipy|sklearn|scikit|learn|ndarrays?|dataframes?|series|axes|"
        r"figures?|artists?|estimators?",
        400,
    ),
    "types": Asked(
        ("array", "bool", "float", "int", "str"),
        r"array.?likes?|(nd)?arrays?|bool(ean)?s?|true|false|float(s|ing)?|int(eger)?s?|str(ing)?s?",
        400,
    ),
}


@dataclass(frozen=True)
class Recipe:
    """What determines the models and the data, beside the seed, the base and the versions of what is read.

    Attributes:
        packages: Whose sources are read.
        words: The least number of words of a text.
        length: The largest number of tokens; what is longer is cut.
        shares: Split → share of the modules (files) that it gets.
        train: Texts to train on, at most, for each task.
        validation: Likewise.
        fitted: On how many of those to train on the head is fitted.
        steps: Optimizer steps of an expert.
        rate: Its largest learning rate.
        batch: Texts to a step.
        epsilon: AdamW's.
        threads: Fixed, since their number changes the bits.
    """

    packages: tuple[str, ...] = ("matplotlib", "numpy", "pandas", "scipy", "sklearn")
    words: int = 3
    length: int = 20
    shares: dict[str, float] = field(default_factory=lambda: {"test": 0.25, "validation": 0.1, "train": 0.65})
    train: int = 6000
    validation: int = 300
    fitted: int = 2000
    steps: int = 200
    rate: float = 5e-5
    batch: int = 24
    epsilon: float = 1e-8
    threads: int = 1

    def count(self, task: str, split: str) -> int:
        """How many texts of a split there are at most."""
        return {"train": self.train, "validation": self.validation, "test": TASKS[task].test}[split]

    def constants(self) -> dict[str, Any]:
        """Every number, as JSON holds it."""
        return json.loads(json.dumps(dataclasses.asdict(self)))  # type: ignore[no-any-return]

    def address(self, seed: int, rest: Iterable[str]) -> str:
        """What the results are stored under: a digest of the numbers, the seed, the source that uses them, and more.

        Args:
            seed: Which retraining.
            rest: What else they depend on: the base, and the versions of the packages.
        """
        digest = hashlib.sha256(json.dumps([self.constants(), seed, *rest], sort_keys=True).encode())
        for name in _SOURCES:
            digest.update(Path(__file__).with_name(f"{name}.py").read_bytes().replace(b"\r\n", b"\n"))
        return digest.hexdigest()[:16]
