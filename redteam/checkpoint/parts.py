"""Parts of networks that are published by themselves: the tower of a CLIP, the language model of a VLM."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from redteam.checkpoint.checkpoint import Checkpoint
from redteam.checkpoint.tensors import Tensors, in_a_block


def part_names(part: Tensors, whole: Tensors) -> dict[str, str]:
    """Name of a tensor in a part → its name in the network that it is a part of; empty where it is none.

    The whole's config must name the part's model type for one of its parts, and have all tensors of the part's blocks
    under one other prefix, in the same shapes. Of several such places (towers of one size) it is the one that has most
    of the part's other tensors, too.
    """
    if not part.architecture or part.architecture not in _types(whole.config):
        return {}
    blocks = [name for name in part if in_a_block(name)]
    found: list[dict[str, str]] = []
    for here, there in _prefixes(blocks[0], whole) if blocks else ():
        names = {name: there + name.removeprefix(here) for name in part if name.startswith(here)}
        alike = {n: other for n, other in names.items() if other in whole and part.shape(n) == whole.shape(other)}
        if all(name in alike for name in blocks):
            found.append(alike)
    found.sort(key=len)
    unclear = len(found) > 1 and len(found[-1]) == len(found[-2]) and found[-1] != found[-2]
    return found[-1] if found and not unclear else {}


def part_of(whole: Checkpoint, part: Checkpoint) -> Checkpoint:
    """What of a network a part stands for, under the part's names and config; all of it where it is no part."""
    names = part_names(part, whole)
    if not names:
        return whole
    found = whole.renamed(names)
    return Checkpoint.computed(found.outline(), found.__getitem__, part.config, found.rough)


def in_place(part: Checkpoint, whole: Checkpoint) -> Checkpoint:
    """A part under the names that its tensors have in the whole network; as it is where it is no part."""
    names = part_names(part, whole)
    return part.renamed({theirs: mine for mine, theirs in names.items()}) if names else part


def _prefixes(name: str, whole: Tensors) -> Iterator[tuple[str, str]]:
    """What may stand before the names of a part, and in its place before those of the whole."""
    words = name.split(".")
    for at in range(len(words)):
        if not in_a_block(tail := ".".join(words[at:])):
            return
        for other in whole:
            if other == tail or other.endswith(f".{tail}"):
                yield name.removesuffix(tail), other.removesuffix(tail)


def settings_of(config: Mapping[str, Any], model_type: str) -> Mapping[str, Any]:
    """The config of the part that has a model type; the whole one where it has that itself, or no part does."""
    parts = [value for value in config.values() if isinstance(value, Mapping)]
    found = (inner for part in parts if (inner := settings_of(part, model_type)).get("model_type") == model_type)
    return config if config.get("model_type") == model_type else next(found, config)


def _types(config: Mapping[str, Any]) -> set[str]:
    parts = [value for value in config.values() if isinstance(value, Mapping)]
    return {str(part.get("model_type", "")) for part in parts}.union(*map(_types, parts))
