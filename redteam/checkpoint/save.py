"""Writes a checkpoint as a folder that others can use, laid out like the one it was made from."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from redteam.checkpoint.companion_files import add_card, copy_beside, without_code, write_config
from redteam.checkpoint.discover import Found, find
from redteam.checkpoint.lazy import usual_dtype
from redteam.checkpoint.safetensors_io import LARGEST_INDEX, read_json, size_of, write_json, write_safetensors
from redteam.checkpoint.sources import Files
from redteam.checkpoint.tensors import Tensors
from redteam.checkpoint.tokenizer_files import TOKENIZER, renumber_tokenizer
from redteam.errors import UnwritableOutput
from redteam.files import apart, new_folder

Progress = Callable[[int, int, str], None]


@dataclass(frozen=True)
class Written:
    """What `write` did.

    Attributes:
        folder: The output folder.
        left_out: Files beside the source's weights that were not copied: other weights, pickles, code, links elsewhere.
        uncoded: Settings out of which `auto_map` was taken, which names such code.
    """

    folder: Path
    left_out: tuple[str, ...] = ()
    uncoded: tuple[str, ...] = ()


@dataclass(frozen=True)
class _Layout:
    """Which tensor goes into which file."""

    shards: Mapping[str, tuple[str, ...]]
    metadata: Mapping[str, Mapping[str, str]] = field(default_factory=dict)
    found: Found | None = None


def write(
    checkpoint: Tensors,
    out: str | os.PathLike[str],
    *,
    like: str | os.PathLike[str] | None = None,
    force: bool = False,
    progress: Progress | None = None,
    beside: str | os.PathLike[str] | None = None,
    card: str | Callable[[], str] | None = None,
    apart_from: Iterable[str | os.PathLike[str]] = (),
    tokens: Mapping[int, int] | None = None,
    durable: bool = True,
) -> Written:
    """Writes a folder, whole or not at all, one tensor in memory at a time.

    Args:
        checkpoint: What is written; its tensors are read in the order in which they are written.
        out: The folder.
        like: The folder or file that the checkpoint was made from. File names, which tensor is in which file, the index
            and the headers' metadata are as there; config, tokenizer, licence and the like are copied. Without it,
            everything goes into `model.safetensors`.
        force: Whether a checkpoint that is at `out` already is replaced, once the new one is complete.
        progress: Called as `progress(done, total, name)` after each tensor.
        beside: A further folder whose tokenizer, licence and the like take the place of those of `like`.
        card: A Markdown section, beginning with its heading, for README.md; it replaces one of the same heading. Or
            what gives it once all tensors have been written, and may still refuse them by raising.
        tokens: Numbers of tokens and those that take their places, for which the tokenizer is rewritten.
        apart_from: Further folders and files that are read, which `out` must neither hold nor lie in.
        durable: Whether to wait until the disk has everything.

    Raises:
        UnwritableOutput: If something is at `out`, or it cannot be written; there is nothing new on the disk then.
        NotACheckpoint: If `like` cannot be read.
        PluginFault: If a tensor is not what the checkpoint said it would be.
    """
    out = Path(out)
    out = out if out.name not in {"", ".."} else Path(os.path.realpath(out))
    read = [Path(path) for path in (*((like,) if like is not None else ()), *apart_from)]
    apart(out, read)
    layout, before = _layout(checkpoint, Path(like) if like is not None else None)
    total = checkpoint.nbytes
    left_out: tuple[str, ...] = ()
    with new_folder(out, force=force, durable=durable) as folder:
        free = shutil.disk_usage(folder).free
        if free < total:
            raise UnwritableOutput(f"{out} needs {total} bytes and its disk has {free} free; name another place.")
        place = folder
        if layout.found is not None and layout.found.inside:
            place = folder / layout.found.inside
            place.mkdir()
            around = Found(layout.found.folder.parent, (), inside=layout.found.inside)
            left_out = copy_beside(around, folder)
        _weights(checkpoint, layout, place, progress)
        if layout.found is not None:
            left_out += copy_beside(layout.found, place)
            if beside is not None:
                left_out += copy_beside(Found(Path(beside), ()), place)
            if layout.found.index is not None:
                _index(checkpoint, layout, layout.found.index, place, total)
        if tokens:
            beside = next((path for path in (place, folder) if (path / TOKENIZER).exists()), place)
            left_out += renumber_tokenizer(beside, tokens)
        write_config(layout.found, checkpoint.config, place, (before, usual_dtype(checkpoint)))
        uncoded = () if layout.found is None else without_code(folder)
        if card is not None:
            add_card(card if isinstance(card, str) else card(), folder)
    return Written(out, left_out, uncoded)


def _layout(checkpoint: Tensors, like: Path | None) -> tuple[_Layout, Any]:
    if like is None:
        return _Layout({"model.safetensors": tuple(checkpoint)}, {"model.safetensors": {"format": "pt"}}), None
    found = find(like)
    files = Files(found)
    added = [name for name in checkpoint if name not in files.names()]
    plain = {f"{name}_blocks": name for name in added if f"{name}_blocks" in files.names()}  # is MXFP4 there
    shards = {
        file: tuple(plain.get(name, name) for name in held if plain.get(name, name) in checkpoint)
        for file, held in files.held().items()
    }
    last = next(reversed(shards))
    shards[last] = (*shards[last], *(name for name in added if name not in plain.values()))
    shards = {file: names for file, names in shards.items() if names or len(shards) == 1}
    metadata = {found.name_of(path): header.metadata for path, header in files.headers.items()}
    return _Layout(shards, metadata, found), usual_dtype(files)


def _weights(checkpoint: Tensors, layout: _Layout, folder: Path, progress: Progress | None) -> None:
    done = 0

    def tell(name: str) -> None:
        nonlocal done
        done += 1
        if progress is not None:
            progress(done, len(checkpoint), name)

    for name, tensors in layout.shards.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        with (folder / name).open("wb") as file:
            write_safetensors(file, checkpoint, tensors, metadata=layout.metadata[name], done=tell)


def _index(checkpoint: Tensors, layout: _Layout, index: Path, folder: Path, total: int) -> None:
    """The index as it was, with what changed brought up to date."""
    said = read_json(index, largest=LARGEST_INDEX)
    place = {name: file for file, names in layout.shards.items() for name in names}
    order = [name for name in said["weight_map"] if name in place]
    metadata = said.get("metadata")
    metadata = dict(metadata) if isinstance(metadata, dict) else {}
    metadata["total_size"] = total
    if "total_parameters" in metadata:
        metadata["total_parameters"] = sum(
            size_of(checkpoint, name) // checkpoint.dtype(name).itemsize for name in checkpoint
        )
    weight_map = {name: place[name] for name in dict.fromkeys((*order, *place))}
    write_json(folder / index.name, {**said, "metadata": metadata, "weight_map": weight_map})
