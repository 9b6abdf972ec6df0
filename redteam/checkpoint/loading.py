"""Whether a folder that was written loads as its source does, in the library that its users load it with."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from redteam.checkpoint.checkpoint import Checkpoint
from redteam.checkpoint.discover import OPEN_CLIP, Found, find
from redteam.checkpoint.known import NETWORK, known_network
from redteam.checkpoint.lazy import usual_dtype
from redteam.checkpoint.libraries import as_a_sentence, quiet_transformers
from redteam.checkpoint.safetensors_io import LARGEST_INDEX, read_json, shown
from redteam.checkpoint.sources import Files
from redteam.errors import BadInput

_DTYPES = ("dtype", "torch_dtype")
"""Of the configs of transformers 5 and 4."""
_KINDS = ("missing_keys", "unexpected_keys", "mismatched_keys", "error_msgs")


def require_loads(folder: Path, like: Path) -> str:
    """Loads a folder from the disk, as somebody would who has nothing else; gives a sentence on it.

    What is odd about its source as well, such as a head that is missing there, is not held against it and said.

    Args:
        folder: What was written.
        like: What it was laid out like.

    Raises:
        BadInput: If it does not load, keys are missing, unexpected or of other shapes, an index gives another size, or
            the config another dtype.
    """
    try:
        found, network = _oddities(folder)
    except BadInput as error:
        raise BadInput(f"{folder} was written and stays, but cannot be loaded: {error}") from error
    if not found:
        return f"Checked: {folder} loads as a {network}; no key is missing, unexpected or of another shape."
    there = _oddities(like)[0]
    if new := {what: names for what, names in found.items() if names != there.get(what)}:
        raise BadInput(
            f"{folder} was written and stays, but does not load as {like} does ({_told(new)}); don't publish it, and "
            "report this."
        )
    return f"Checked: {folder} loads as a {network}, and as {like} does ({_told(found)})."


def require_agreement(folder: Path, like: Path) -> None:
    """Refuses a folder whose index or config say something else of its tensors than their headers.

    What is odd about its source as well is not held against it.

    Args:
        folder: What was written.
        like: What it was laid out like.

    Raises:
        BadInput: If it does, or cannot be read.
    """
    try:
        found = _of_headers(folder)
    except BadInput as error:
        raise BadInput(f"{folder} was written and stays, but cannot be read again: {error}") from error
    there = _of_headers(like) if found else {}
    if new := {what: names for what, names in found.items() if names != there.get(what)}:
        raise BadInput(
            f"{folder} was written and stays, but does not agree with itself ({_told(new)}); don't publish it, and "
            "report this."
        )


def _of_headers(path: Path) -> dict[str, tuple[str, ...]]:
    """What is odd about a folder as far as index, config and headers tell: kind → names."""
    found = find(path)
    files = Files(found)
    odd = {"index": tuple(files.remarks), **_size(found, files), **_dtype(found, files)}
    return {kind: names for kind, names in odd.items() if names}


def _oddities(path: Path) -> tuple[dict[str, tuple[str, ...]], str]:
    """What is odd about a folder: kind → names; and what loads it."""
    found = find(path)
    network, keys = _loaded(path / found.inside, found.settings())
    return {**_of_headers(path), **{kind: names for kind, names in keys.items() if names}}, network


def _size(found: Found, files: Files) -> dict[str, tuple[str, ...]]:
    if found.index is None:
        return {}
    metadata = read_json(found.index, largest=LARGEST_INDEX).get("metadata")
    said = metadata.get("total_size") if isinstance(metadata, Mapping) else None
    total = sum(files.size(name) for name in files.names())
    return {} if said in (None, total) else {"total_size": (f"{shown(said)} in the index, {total} in the files",)}


def _dtype(found: Found, files: Files) -> dict[str, tuple[str, ...]]:
    usual = str(usual_dtype(files)).removeprefix("torch.")
    settings = found.settings()
    said = {str(settings[key]).removeprefix("torch.") for key in _DTYPES if isinstance(settings.get(key), str)}
    return {} if said <= {usual, "auto"} else {"dtype": (f"{', '.join(sorted(said))} in the config, {usual} stored",)}


def _loaded(path: Path, settings: Mapping[str, Any]) -> tuple[str, dict[str, tuple[str, ...]]]:
    if settings.get("model_type") == OPEN_CLIP or NETWORK in settings or not path.is_dir():
        Checkpoint.open(path).module()  # which refuses whatever does not fit
        return "network of open_clip" if settings.get("model_type") == OPEN_CLIP else "network", {}
    network, config = known_network(settings)
    with quiet_transformers(), as_a_sentence(network.__name__):
        _, info = network.from_pretrained(
            path,
            config=config,
            output_loading_info=True,
            local_files_only=True,
            trust_remote_code=False,
            use_safetensors=True,
            ignore_mismatched_sizes=True,  # they are told
            dtype="auto",
        )
    keys = {kind: sorted(str(x[0] if isinstance(x, tuple) else x) for x in info.get(kind) or ()) for kind in _KINDS}
    return network.__name__, {kind.replace("_", " "): tuple(names) for kind, names in keys.items()}


def _told(odd: Mapping[str, tuple[str, ...]]) -> str:
    return "; ".join(f"{kind}: {', '.join(n[:3])}{', …' if len(n) > 3 else ''}" for kind, n in odd.items())
