"""Whether two tokenizers give the same numbers to the same tokens, as rows of one embedding must mean the same."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path

from redteam.checkpoint.safetensors_io import LARGEST_INDEX, read_json
from redteam.doctor.findings import Finding
from redteam.errors import NotACheckpoint

FEW = 0.01
"""Share of the tokens up to which others are names given to reserved ones, as chat models do."""
_TOLD = 3


def tokens(name: str, model: Path, base: Path) -> Iterator[Finding]:
    """What is said of a model whose tokenizer numbers tokens otherwise than the base's; nothing where one has none.

    Args:
        name: What the model is called.
        model: Its folder.
        base: The base's.
    """
    mine, theirs = _numbered(model), _numbered(base)
    both = mine.keys() & theirs.keys()
    others = sorted(number for number in both if mine[number] != theirs[number])
    if not others:
        return
    shown = ", ".join(f"{number} is {mine[number]!r}, the base's {theirs[number]!r}" for number in others[:_TOLD])
    many = len(others) > FEW * len(both)
    yield Finding(
        severity="damages" if many else "note",
        kind="vocabulary",
        models=(name,),
        where=("tokenizer.json",),
        told=f"The tokenizer of {name} has other tokens under {len(others)} of {len(both)} numbers ({shown}), so that "
        "rows of the embedding are merged that stand for different tokens.",
        remedy="Leave it out, or bring its embedding and head into the base's order of tokens first."
        if many
        else "Nothing has to be done if these are reserved tokens that were given a name.",
    )


def _numbered(folder: Path) -> dict[int, str]:
    """Number → token, by `tokenizer.json`; empty where there is none that can be read."""
    try:
        held = read_json(folder.expanduser() / "tokenizer.json", largest=LARGEST_INDEX)
    except (NotACheckpoint, OSError):
        return {}
    model, added = held.get("model"), held.get("added_tokens")
    vocabulary = model.get("vocab") if isinstance(model, Mapping) else None
    found: dict[int, str] = {}
    if isinstance(vocabulary, Mapping):
        found = {number: token for token, number in vocabulary.items() if isinstance(number, int)}
    elif isinstance(vocabulary, list):
        rows = enumerate(vocabulary)
        found = {number: str(row[0]) for number, row in rows if isinstance(row, list) and row}
    for token in added if isinstance(added, list) else ():
        if isinstance(token, Mapping) and isinstance(token.get("id"), int):
            found[token["id"]] = str(token.get("content", ""))
    return found
