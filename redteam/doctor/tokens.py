"""Whether two tokenizers give the same numbers to the same tokens, as rows of one embedding must mean the same."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from redteam.checkpoint.tokenizer_files import numbered_tokens
from redteam.doctor.findings import Finding

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
    mine, theirs = numbered_tokens(model), numbered_tokens(base)
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
