"""What goes with a checkpoint beside its weights: config, tokenizer, licence, model card."""

from __future__ import annotations

import json
import re
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from redteam.checkpoint.discover import CONFIGS, OPEN_CLIP, Found, modules_of, own
from redteam.checkpoint.safetensors_io import LARGEST_CONFIG, write_json
from redteam.errors import NotACheckpoint
from redteam.files import looks_like_a_key

_TEXTS = {".json", ".txt", ".md", ".jinja", ".yaml", ".yml"}
_TOKENIZERS = {".model", ".tiktoken", ".spm", ".bpe", ".vocab", ".codes"}
_STARTS = ("license", "licence", "notice", "copying", "readme", "use_policy")
_OF_CODES = {"hf_quant_config.json", "quantize_config.json", "quant_config.json"}  # what is written is never quantised
_LICENCES = ("license", "license_name")
_LARGEST = 2**26
_BINARY = (b"\x80\x02", b"\x80\x03", b"\x80\x04", b"\x80\x05", b"PK\x03\x04", b"\x93NUMPY", b"\x89HDF", b"GGUF")


def copy_beside(found: Found, folder: Path) -> tuple[str, ...]:
    """Copies the small files beside the weights: never other weights, pickles, code or what a link has elsewhere.

    Args:
        found: The checkpoint; its own config is copied, not that of another format.
        folder: Where to.

    Returns:
        The names of the files and folders that were left out.
    """
    if found.alone and found.config is None:
        return ()  # a lone file in a folder of anything
    weights = {path.name for path in (*found.weights, *((found.index,) if found.index else ()))}
    shards = {path.parent for path in found.weights}
    left: list[str] = []
    modules = modules_of(found.folder)
    for path in sorted(found.folder.iterdir()):
        if path.name in weights or (found.inside and path.name == found.inside):
            continue
        if path in shards:
            left += [f"{path.name}/{one.name}" for one in sorted(path.iterdir()) if one not in found.weights]
        elif path.is_dir() and path.name in modules and not path.is_symlink():
            left += [f"{path.name}/{name}" for name in _copy_module(path, folder / path.name)]
        elif path.is_dir():
            left.append(f"{path.name}/")
        elif _goes_along(found, path):
            shutil.copyfile(path, folder / path.name)
        else:
            left.append(path.name)
    return tuple(left)


def _copy_module(source: Path, folder: Path) -> list[str]:
    """Copies a module's settings and safetensors; returns the names of what was left out."""
    found, left = Found(source, (), source / "config.json"), []
    folder.mkdir()
    for path in sorted(source.iterdir()):
        if _goes_along(found, path) or _is_own_weights(found, path):
            shutil.copyfile(path, folder / path.name)
        else:
            left.append(path.name)
    return left


def write_config(
    found: Found | None, config: Mapping[str, Any], folder: Path, dtypes: tuple[torch.dtype | None, torch.dtype | None]
) -> None:
    """Writes the config, if it says something else than the one that was copied.

    Args:
        found: The checkpoint that was copied.
        config: What it shall say.
        folder: Where to.
        dtypes: The dtype that most weights had, and have.
    """
    before, after = dtypes
    said = found.settings() if found is not None else None
    settings = dict(config)
    if before is not None and after is not None and before != after:
        settings = _with_dtype(settings, str(after).removeprefix("torch."))
    if settings == said or (found is not None and found.config is None and not settings):
        return
    name = "config.json" if found is None or found.config is None else found.config.name
    if name == "open_clip_config.json" and settings.get("model_type") == OPEN_CLIP:
        del settings["model_type"]
    write_json(folder / name, settings, sort=found is None)


def without_code(folder: Path) -> tuple[str, ...]:
    """Takes `auto_map` out of the settings in a folder: it names code, which is not copied.

    Returns:
        The names of the files that had it.
    """
    named = []
    for path in sorted(folder.rglob("*.json")):
        try:
            settings = json.loads(path.read_bytes()) if path.stat().st_size <= LARGEST_CONFIG else None
        except (ValueError, RecursionError):
            continue  # another program's file
        if isinstance(settings, dict) and (kept := _uncoded(settings)) != settings:
            write_json(path, kept)
            named.append(str(path.relative_to(folder)))
    return tuple(named)


def _uncoded(settings: Mapping[str, Any]) -> dict[str, Any]:
    return {
        key: _uncoded(value) if isinstance(value, Mapping) and key.endswith("_config") else value
        for key, value in settings.items()
        if key != "auto_map"
    }


def add_card(card: str, folder: Path) -> None:
    """Adds a section to README.md; one with the same heading gives way to it.

    Args:
        card: Markdown that begins with its heading.
        folder: Where README.md is, or shall be.
    """
    path = folder / "README.md"
    text = path.read_bytes().decode("utf-8", errors="surrogateescape") if path.exists() else ""
    card = card.strip()
    heading = card.splitlines()[0].strip()
    level = len(heading) - len(heading.lstrip("#"))
    kept: list[str] = []
    inside = fenced = False
    for line in text.split("\n"):
        fenced ^= line.lstrip().startswith("```")
        depth = len(line) - len(line.lstrip("#"))
        if not fenced and depth > 0 and line[depth : depth + 1] == " ":
            inside = line.strip() == heading or (inside and depth > level)
        if not inside:
            kept.append(line)
    before = "\n".join(kept).rstrip()
    whole = f"{before}\n\n{card}\n" if before else f"{card}\n"
    path.write_bytes(whole.encode("utf-8", errors="surrogateescape"))


def card_row(model: Path, title: str, row: str) -> str | None:
    """What the table of a section in a checkpoint's README.md says in one row; None where it says nothing.

    Args:
        model: The checkpoint's folder or file.
        title: Of the section.
        row: What its first column says.
    """
    path = (model if model.is_dir() else model.parent) / "README.md"
    if not path.is_file() or path.stat().st_size > _LARGEST:
        return None
    text = path.read_bytes().decode("utf-8", errors="surrogateescape")
    section = text.partition(f"## {title}\n")[2].partition("\n## ")[0]
    found = re.search(rf"^\| {re.escape(row)} \| (.*?) \|$", section, re.MULTILINE)
    return None if found is None else found[1]


def licence_of(model: Path) -> str:
    """The licence that a checkpoint's card names in front; empty where it names none.

    Args:
        model: The checkpoint's folder or file.
    """
    path = (model if model.is_dir() else model.parent) / "README.md"
    if not path.is_file() or path.stat().st_size > _LARGEST:
        return ""
    front = re.match(r"---\s*\n(.*?)\n---", path.read_bytes().decode("utf-8", errors="replace"), re.DOTALL)
    said = front[1] if front else ""
    named = [re.search(rf"^{entry}:[ \t]*(?:\n- *)?(\S.*?)\s*$", said, re.MULTILINE) for entry in _LICENCES]
    found = [one[1].strip("\"'[]") for one in named if one]
    return next((" ".join(one.split()) for one in found if one != "other"), "")


def _goes_along(found: Found, path: Path) -> bool:
    name = path.name.lower()
    known = path.suffix.lower() in _TEXTS | _TOKENIZERS or (name.startswith(_STARTS) and path.suffix.lower() != ".py")
    if not known or name in _OF_CODES or name.startswith((".", "adapter_")) or name.endswith(".index.json"):
        return False
    if path.name in CONFIGS and (found.config is None or path.name != found.config.name):
        return False
    try:
        real = own(found.folder, path.name)
        with real.open("rb") as file:
            start = file.read(4096)
        return real.stat().st_size <= _LARGEST and not looks_like_a_key(real) and not start.startswith(_BINARY)
    except (NotACheckpoint, OSError):
        return False


def _is_own_weights(found: Found, path: Path) -> bool:
    if path.suffix != ".safetensors":
        return False
    try:
        return own(found.folder, path.name).is_file()
    except NotACheckpoint:
        return False


def _with_dtype(settings: dict[str, Any], dtype: str) -> dict[str, Any]:
    changed = {}
    for key, value in settings.items():
        if key in {"dtype", "torch_dtype"} and isinstance(value, str) and value != "auto":
            value = dtype
        elif key.endswith("_config") and key != "quantization_config" and isinstance(value, dict):
            value = _with_dtype(value, dtype)
        changed[key] = value
    return changed
