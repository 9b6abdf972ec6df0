"""Which files of a folder make up a checkpoint, and which of them may be trusted to be its own."""

from __future__ import annotations

import json
import os
import re
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from redteam.checkpoint.safetensors_io import LARGEST_CONFIG, LARGEST_INDEX, read_json, shown
from redteam.errors import NotACheckpoint
from redteam.files import require_model

OPEN_CLIP = "open_clip"
"""The `model_type` that a checkpoint of open_clip gets, whose own config has none."""

_PICKLES = ("*.bin", "*.pt", "*.pth", "*.ckpt", "*.pkl", "*.pickle")
_FOREIGN = {
    "*.gguf": "GGUF, for llama.cpp",
    "*.onnx": "ONNX",
    "*.h5": "of TensorFlow",
    "*.msgpack": "of Flax",
    "*.npz": "NumPy arrays",
}
"""Files that hold a model in another format → how it is called."""
_MISTRAL = re.compile(r"consolidated([.-].*)?\.safetensors$")
_PART = re.compile(r"-\d+-of-\d+\.safetensors$")
_STEMS = {"model": "config.json", "open_clip_model": "open_clip_config.json"}
CONFIGS = tuple(_STEMS.values())


@dataclass(frozen=True)
class Found:
    """The files of a checkpoint.

    Attributes:
        folder: Where they are.
        weights: The safetensors files, in the order of their names.
        index: The file that says which tensor is in which shard.
        weight_map: What it says: tensor → file name.
        config: The file that describes the network.
        alone: Whether one file was named, not a folder.
        inside: In which subfolder these lie, where the folder named is a model of sentence-transformers; else empty.
        remarks: What is odd about the files and does not keep them from being read, in sentences.
    """

    folder: Path
    weights: tuple[Path, ...]
    config: Path | None = None
    index: Path | None = None
    weight_map: Mapping[str, str] | None = None
    alone: bool = False
    inside: str = ""
    remarks: tuple[str, ...] = ()

    def name_of(self, weights: Path) -> str:
        """How the index calls one of the files."""
        return weights.relative_to(self.folder).as_posix()

    def settings(self) -> dict[str, Any]:
        """What the config says; that of open_clip gets a `model_type`.

        Raises:
            NotACheckpoint: If it cannot be read.
        """
        if self.config is None:
            return {}
        settings = read_json(self.config)
        if self.config.name == "open_clip_config.json":
            settings = {
                "model_type": OPEN_CLIP,
                **{key: value for key, value in settings.items() if key != "model_type"},
            }
        return settings


def find(path: Path) -> Found:
    """What `path`, a folder or a safetensors file, stands for.

    Raises:
        NotACheckpoint: If there are no weights, an index leads elsewhere, or a link leaves the folder.
    """
    require_model(path)
    if path.is_file():
        return _file(path)
    for stem in _STEMS:
        index, single = path / f"{stem}.safetensors.index.json", path / f"{stem}.safetensors"
        if _there(index) and _there(single):
            return _both(path, single, index, _config(path, stem))
        if _there(index):
            weight_map = _weight_map(own(path, index.name))
            weights = tuple(_shard(path, name) for name in sorted(set(weight_map.values())))
            return Found(path, weights, _config(path, stem), index, weight_map, remarks=_unnamed(path, weights))
        if _there(single):
            return Found(path, (own(path, single.name),), _config(path, stem))
    safe = sorted(path.glob("*.safetensors"))
    if safe and all(_MISTRAL.match(file.name) for file in safe):
        raise NotACheckpoint(_mistral(path, safe[0]))
    alone = [file for file in safe if not _PART.search(file.name) and not _MISTRAL.match(file.name)]
    if not alone and (inner := _transformer(path)) is not None:
        return replace(find(inner), inside=inner.name)
    if len(alone) == 1:
        stem = "open_clip_model" if alone[0].name.startswith(OPEN_CLIP) else "model"
        return Found(path, (own(path, alone[0].name),), _config(path, stem))
    pickled = sorted(found.name for pattern in _PICKLES for found in path.glob(pattern))
    other = next((f"{file.name} is {kind}" for glob, kind in _FOREIGN.items() for file in sorted(path.glob(glob))), "")
    why = f"{pickled[0]} is a pickle, which is never loaded" if pickled else other or "no model.safetensors is in it"
    why = f"{len(alone)} safetensors files and no index are in it" if len(alone) > 1 else why
    raise NotACheckpoint(f"{path} is no checkpoint ({why}); expected a folder with model.safetensors.")


def _mistral(path: Path, file: Path) -> str:
    return (
        f"{path} holds Mistral's own layout ({file.name}), with names and an order of rows of its own; "
        "fetch the files model*.safetensors and config.json of the same repository."
    )


def _transformer(path: Path) -> Path | None:
    """The subfolder with the weights of a model of sentence-transformers, where they don't lie in the folder itself.

    Raises:
        NotACheckpoint: If several subfolders have weights: which of them is meant cannot be known.
    """
    inner = [path / name for name in modules_of(path) if (path / name / "config.json").is_file()]
    found = [sub for sub in inner if not sub.is_symlink() and any(sub.glob("*.safetensors")) and _typed(sub)]
    if len(found) > 1:
        raise NotACheckpoint(
            f"{path} is made of several networks ({', '.join(sorted(sub.name for sub in found))}); name one of these "
            "folders."
        )
    return found[0] if found else None


def _typed(folder: Path) -> bool:
    """Whether a folder holds a network, not a layer on top of one."""
    return "model_type" in read_json(own(folder, "config.json"))


def modules_of(folder: Path) -> set[str]:
    """The subfolders that a model of sentence-transformers says it is made of, beside the folder itself."""
    found: set[str] = set()
    for file in ("modules.json", "router_config.json"):
        if not (folder / file).exists():
            continue
        try:
            path = own(folder, file)
            said = json.loads(path.read_bytes()) if path.stat().st_size <= LARGEST_CONFIG else ()
            names = said["types"] if isinstance(said, dict) else [module.get("path") for module in said]
            found |= {name for name in map(str, names) if name and Path(name).name == name}
        except (NotACheckpoint, ValueError, AttributeError, TypeError, KeyError, RecursionError):
            continue
    return found - {"None", ".", ".."}


def _unnamed(path: Path, shards: tuple[Path, ...]) -> tuple[str, ...]:
    """A remark on files beside an index that does not name them, which loaders pass over."""
    names = {shard.name for shard in shards if shard.parent == path}
    left = sorted(f.name for f in path.glob("*.safetensors") if f.name not in names and not _MISTRAL.match(f.name))
    return (f"The index names nothing in {', '.join(left[:3])}{', …' if len(left) > 3 else ''}, left aside.",) * bool(
        left
    )


def _both(path: Path, single: Path, index: Path, config: Path | None) -> Found:
    """A folder with one file and an index: the index may name that file alone, or shards that were put together."""
    weight_map = _weight_map(own(path, index.name))
    files = set(weight_map.values())
    weights = (own(path, single.name),)
    if files <= {single.name}:
        return Found(path, weights, config, index, weight_map)
    if not any(Path(name).name == name and (path / name).exists() for name in files - {single.name}):
        left = f"{index.name} names shards that are not there, and is left aside: {single.name} is read."
        return Found(path, weights, config, remarks=(left,))
    raise NotACheckpoint(
        f"{path} holds both {single.name} and the shards of {index.name}; which is meant cannot be known: name the "
        "file, or take one of them away."
    )


def own(folder: Path, name: str) -> Path:
    """A file of the folder that is really its own.

    A link may lead to another file of the same folder. Hugging Face's cache keeps the files of
    `models--…/snapshots/REVISION` in `models--…/blobs`, and those count as the folder's own, too; folders to which it
    was told to download may have links into a cache that is elsewhere.

    Raises:
        NotACheckpoint: If the file is missing, no regular file, or elsewhere.
    """
    path = folder / name
    try:
        real, home = path.resolve(), folder.resolve()
        is_file = path.is_file()
    except (OSError, RuntimeError, ValueError):
        raise NotACheckpoint(f"{shown(name)} in {folder} cannot be a file; fetch the checkpoint again.") from None
    snapshots = next((parent for parent in (home, *home.parents) if parent.parent.name == "snapshots"), None)
    cached = real.parent.name == "blobs" and real.parent.parent.name.startswith("models--")
    if snapshots is not None and snapshots.parent.parent.name.startswith("models--"):
        cached = real.parent == snapshots.parent.parent / "blobs"
    if not (cached or real.is_relative_to(home)):
        raise NotACheckpoint(f"{shown(name)} in {folder} leads outside the folder; such a checkpoint is refused.")
    if not is_file:
        raise NotACheckpoint(f"{shown(name)} in {folder} is missing; fetch the file.")
    return path


def _file(path: Path) -> Found:
    if any(path.match(pattern) for pattern in _PICKLES):
        raise NotACheckpoint(f"{path} is a pickle, which is never loaded; expected a safetensors file.")
    for glob, kind in _FOREIGN.items():
        if path.match(glob):
            raise NotACheckpoint(f"{path} is {kind}; expected the safetensors file that it was made from.")
    if _MISTRAL.match(path.name):
        raise NotACheckpoint(_mistral(path.parent, path))
    stem = "open_clip_model" if path.name.startswith(OPEN_CLIP) else "model"
    return Found(path.parent, (path,), _config(path.parent, stem), alone=True)


def _config(folder: Path, stem: str) -> Path | None:
    wanted = _STEMS[stem]
    for name in (wanted, *(other for other in CONFIGS if other != wanted)):
        if _there(folder / name):
            return own(folder, name)
    return None


def _there(path: Path) -> bool:
    """Whether a file is there, or a link that must be looked at before it is followed."""
    return path.is_symlink() or path.is_file()


def _weight_map(index: Path) -> dict[str, str]:
    weight_map = read_json(index, largest=LARGEST_INDEX, unique=True).get("weight_map")
    if not isinstance(weight_map, dict) or not all(isinstance(file, str) for file in weight_map.values()):
        raise NotACheckpoint(f"{index} is not a readable index of shards; fetch the file again.")
    return weight_map


def _shard(folder: Path, name: str) -> Path:
    """A shard, which lies beside its index or in a subfolder."""
    plain = "/".join(Path(name).parts) == name and ".." not in Path(name).parts and not Path(name).is_absolute()
    if not name or "\0" in name or "\\" in name or not plain:
        raise NotACheckpoint(f"The index in {folder} leads outside the folder ({shown(name)}); it is refused.")
    others = sorted(file.name for file in folder.glob("*.safetensors"))
    if others and len(Path(name).name) < 256 and not os.path.lexists(folder / name):
        raise NotACheckpoint(
            f"{shown(name)} in {folder} is missing, which its index names; fetch the file, or, if the index is older, "
            f"the index that goes with {', '.join(others[:3])}{', …' if len(others) > 3 else ''}."
        )
    return own(folder, name)
