"""The files of a tokenizer: which number each token has, and the same files with other numbers."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from redteam.checkpoint.safetensors_io import LARGEST_INDEX, read_json, shown
from redteam.errors import NotACheckpoint

TOKENIZER = "tokenizer.json"
_TABLES = ("vocab.json", "encoder.json")  # token → number, as older tokenizers read
_LINES = ("vocab.txt",)  # a token a line
_BINARY = (".model", ".spm", ".tiktoken")


def numbered_tokens(folder: Path) -> dict[int, str]:
    """Number → token, by `tokenizer.json`; empty where there is none that can be read."""
    held = _read(folder)
    found = {number: token for token, number in _vocabulary(held).items()}
    for token in _added(held):
        if isinstance(token.get("id"), int):
            found[token["id"]] = str(token.get("content", ""))
    return found


def movable_tokens(folder: Path) -> dict[str, int]:
    """Token → number, of those that can be given another: what the tokenizer's model makes texts of.

    Special and added tokens stay: configs, templates and programs know them by their numbers, and libraries number
    those outside of the model's vocabulary by themselves, behind it. So does what stands for unknown tokens.
    """
    held = _read(folder)
    model = found if isinstance(found := held.get("model"), Mapping) else {}
    stay = set(_named([model.get("unk_id"), held.get("added_tokens"), held.get("post_processor")]))
    names = {str(name) for name in (model.get("unk_token"), *(token.get("content") for token in _added(held)))}
    return {t: n for t, n in _vocabulary(held).items() if n >= 0 and n not in stay and t not in names}


def renumber_tokenizer(folder: Path, moved: Mapping[int, int]) -> tuple[str, ...]:
    """Gives tokens other numbers in all files of a folder that say them.

    Args:
        folder: With `tokenizer.json`; its files are rewritten.
        moved: Number → what it becomes; the same numbers in another order, of tokens that `movable_tokens` gives.

    Returns:
        The names of the files that were removed, since they number tokens as before and are in a format that is not
        written.

    Raises:
        NotACheckpoint: If there is no tokenizer that can be read, or a file gives a token no number.
    """
    held = read_json(folder / TOKENIZER, largest=LARGEST_INDEX)
    model = dict(held["model"])
    vocabulary = model["vocab"]
    if isinstance(vocabulary, Mapping):
        model["vocab"] = _by_number(vocabulary, moved, folder / TOKENIZER)
    else:
        rows = list(vocabulary)
        for before, after in moved.items():
            rows[after] = vocabulary[before]
        model["vocab"] = rows
    _write(folder / TOKENIZER, {**held, "model": model}, indent=2)
    for name in _TABLES:
        if (folder / name).is_file():
            held_there = read_json(folder / name, largest=LARGEST_INDEX)
            _write(folder / name, _by_number(held_there, moved, folder / name), indent=None)
    for name in _LINES:
        if (folder / name).is_file():
            lines = (folder / name).read_bytes().split(b"\n")
            found = list(lines)
            for before, after in moved.items():
                if before < len(lines) and after < len(lines):
                    found[after] = lines[before]
            (folder / name).write_bytes(b"\n".join(found))
    removed = sorted(path.name for path in folder.iterdir() if path.suffix.lower() in _BINARY)
    for name in removed:
        (folder / name).unlink()
    return tuple(removed)


def _read(folder: Path) -> dict[str, Any]:
    try:
        return read_json(folder.expanduser() / TOKENIZER, largest=LARGEST_INDEX)
    except (NotACheckpoint, OSError):
        return {}


def _vocabulary(held: Mapping[str, Any]) -> dict[str, int]:
    model = held.get("model")
    vocabulary = model.get("vocab") if isinstance(model, Mapping) else None
    if isinstance(vocabulary, Mapping):
        return {token: number for token, number in vocabulary.items() if isinstance(number, int)}
    rows = enumerate(vocabulary) if isinstance(vocabulary, list) else ()
    return {str(row[0]): number for number, row in rows if isinstance(row, list) and row}


def _added(held: Mapping[str, Any]) -> list[Mapping[str, Any]]:
    tokens = held.get("added_tokens")
    return [token for token in tokens if isinstance(token, Mapping)] if isinstance(tokens, list) else []


def _named(part: Any) -> Iterator[int]:
    """All whole numbers in a part of the file: ids, and kinds of segments, for which a row more stays."""
    if isinstance(part, Mapping):
        part = list(part.values())
    if isinstance(part, list):
        for one in part:
            yield from _named(one)
    elif type(part) is int:
        yield part


def _by_number(vocabulary: Mapping[str, Any], moved: Mapping[int, int], path: Path) -> dict[str, int]:
    for token, number in vocabulary.items():
        if type(number) is not int:
            raise NotACheckpoint(
                f"{path.name} gives {shown(token)} the number {shown(number)}; expected whole numbers, so restore it."
            )
    found = {token: moved.get(number, number) for token, number in vocabulary.items()}
    return dict(sorted(found.items(), key=lambda item: item[1]))


def _write(path: Path, value: Mapping[str, Any], *, indent: int | None) -> None:
    path.write_text(json.dumps(value, indent=indent, ensure_ascii=False), encoding="utf-8")
