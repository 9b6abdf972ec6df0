"""The architectures that are known, by `model_type` of the config: a file each, with the proof beside it.

`python tools/catalogue.py` writes them; docs/architectures.md says how to add one.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, MutableMapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from redteam.anatomy.architecture import Architecture, ArchitectureLike
from redteam.anatomy.files import from_data

FOLDER = Path(__file__).parent / "catalogue"
_FORM = "+"
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
            description it shares. A file called by the type, a plus and a word is of another form of it, for configs
            that hold all that stands under `when`; of several the one that asks for most.
    """

    def __init__(self, folder: Path) -> None:
        self._files = {file.stem: file for file in sorted(folder.glob("*.json"))}
        self._made: dict[str, Architecture | ArchitectureLike] = {}
        self._set: set[str] = set()

    def for_config(self, name: str, config: Mapping[str, Any]) -> Architecture | ArchitectureLike:
        """The description of a model type, of the form that a config asks for.

        Raises:
            KeyError: If the type is not known.
        """
        forms = [] if name in self._set else [one for one in self._files if one.startswith(f"{name}{_FORM}")]
        asked = {one: self.data(one)["when"] for one in forms}
        fit = [one for one, keys in asked.items() if all(config.get(key) == value for key, value in keys.items())]
        return self[max(fit, key=lambda one: len(asked[one]), default=name)]

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
        self._set.add(name)

    @contextmanager
    def replaced(self, name: str, architecture: Architecture | ArchitectureLike) -> Iterator[None]:
        """While it is active, a model type has another description, whatever the form."""
        made, was_set = self._made.get(name), name in self._set
        self[name] = architecture
        try:
            yield
        finally:
            del self[name]
            if made is not None:
                self._made[name] = made
            if was_set:
                self._set.add(name)

    def __delitem__(self, name: str) -> None:
        del self._made[name]
        self._set.discard(name)

    def __iter__(self) -> Iterator[str]:
        yield from dict.fromkeys((*(name for name in _FIRST if name in self._files), *self._types()))

    def __len__(self) -> int:
        return len(self._types())

    def _types(self) -> list[str]:
        """Without their forms."""
        return [name for name in dict.fromkeys((*self._files, *self._made)) if _FORM not in name]

    def __contains__(self, name: object) -> bool:
        return name in self._files or name in self._made


ARCHITECTURES = Catalogue(FOLDER)
"""Hugging Face names, as they are saved, and open_clip's."""
