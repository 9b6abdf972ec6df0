"""The architectures that are known, by `model_type` of the config: a file each, with the proof beside it.

`python tools/catalogue.py` writes them; docs/architectures.md says how to add one.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, MutableMapping
from pathlib import Path
from typing import Any

from redteam.anatomy.architecture import Architecture, ArchitectureLike
from redteam.anatomy.files import from_data

FOLDER = Path(__file__).parent / "catalogue"
_FIRST = [
    "vit",
    "deit",
    "bert",
    "roberta",
    "gpt2",
    "gpt_neox",
    "llama",
    "mistral",
    "qwen2",
    "qwen3",
    "gemma2",
    "gemma3_text",
    "gemma3",
    "olmo2",
    "phi3",
    "cohere",
    "mixtral",
    "qwen3_moe",
    "deepseek_v3",
    "t5",
    "clip",
    "siglip",
    "open_clip",
    "resnet",
]
"""Asked before the others where a checkpoint has no config: of several with the same names, the first counts."""


class Catalogue(MutableMapping[str, Architecture | ArchitectureLike]):
    """Model types and their descriptions; a file is read when its type is asked for.

    Args:
        folder: Of files that `redteam describe` writes, called by the model type; `like` in one names another, whose
            description it shares.
    """

    def __init__(self, folder: Path) -> None:
        self._files = {file.stem: file for file in sorted(folder.glob("*.json"))}
        self._made: dict[str, Architecture | ArchitectureLike] = {}

    def __getitem__(self, name: str) -> Architecture | ArchitectureLike:
        if name not in self._made:
            data = self.data(name)
            self._made[name] = self[data["like"]] if "like" in data else from_data(data, str(self._files[name]))
        return self._made[name]

    def data(self, name: str) -> dict[str, Any]:
        """What the file of a model type holds; raises KeyError if there is none."""
        found: dict[str, Any] = json.loads(self._files[name].read_text(encoding="utf-8"))
        return found

    def __setitem__(self, name: str, architecture: Architecture | ArchitectureLike) -> None:
        self._made[name] = architecture

    def __delitem__(self, name: str) -> None:
        del self._made[name]

    def __iter__(self) -> Iterator[str]:
        yield from dict.fromkeys((*(name for name in _FIRST if name in self._files), *self._files, *self._made))

    def __len__(self) -> int:
        return len(set(self._files) | set(self._made))

    def __contains__(self, name: object) -> bool:
        return name in self._files or name in self._made


ARCHITECTURES = Catalogue(FOLDER)
"""Hugging Face names, as they are saved, and open_clip's."""
