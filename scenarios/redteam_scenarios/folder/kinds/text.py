"""Text classification, and text as networks take it."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import TypeVar

import torch

from redteam.errors import BadInput
from redteam.tasks import Classification
from redteam_scenarios.folder.models import tokenizer_of
from redteam_scenarios.folder.prepared import Parts
from redteam_scenarios.folder.source import Source
from redteam_scenarios.folder.tables import Row

K = TypeVar("K", bound=str)
_USED = ("input_ids", "attention_mask", "token_type_ids")


def columns(source: Source) -> tuple[str, ...]:
    """The columns that a network is shown."""
    return (source.entry.text,) if isinstance(source.entry.text, str) else source.entry.text


def classification(source: Source) -> Parts:
    """Tokens and classes of a table's rows."""
    rows = source.rows(columns(source), (source.entry.label,))
    tokens = tokenized(source, {split: texts(source, held) for split, held in rows.items()})
    return {
        split: (tokens[split], torch.tensor(source.labels([row[source.entry.label] for row in held])))
        for split, held in rows.items()
    }


def classified(source: Source, parts: Parts) -> Classification:
    """The task; guessing is to answer the commonest class."""
    labels = {split: labels for split, (_, labels) in parts.items()}
    common = float(labels["test"].bincount().max()) / len(labels["test"])
    if common == 1:
        raise BadInput(
            f"Every test row of {source.name!r} has the same label, so that nothing can be told; add others."
        )
    return Classification(source.name, common, {split: inputs for split, (inputs, _) in parts.items()}, labels)


def texts(source: Source, rows: Sequence[Row]) -> list[tuple[str, ...]]:
    """What a network is shown of the rows."""
    return [tuple(str(row[name]) for name in columns(source)) for row in rows]


def tokenized(source: Source, rows: Mapping[K, Iterable[tuple[str, ...]]]) -> dict[K, dict[str, torch.Tensor]]:
    """Texts as int64 tensors `[n, tokens]`, padded behind to the longest of their part.

    Raises:
        BadInput: If there is no tokenizer, or it knows tokens that the network does not.
    """
    tokenizer = tokenizer_of(*source.homes)
    if tokenizer.pad_token_id is None:
        tokenizer.pad_token = tokenizer.eos_token or tokenizer.unk_token
    tokenizer.padding_side = "right"
    made: dict[K, dict[str, torch.Tensor]] = {}
    for part, held in rows.items():
        given = list(zip(*held, strict=True))
        found = tokenizer(
            *(list(texts) for texts in given),
            truncation=True,
            max_length=room_for(source),
            padding=True,
            return_tensors="pt",
        )
        made[part] = {name: found[name].long() for name in _USED if name in found}
    require_known(source, [part["input_ids"] for part in made.values()])
    return made


def room_for(source: Source) -> int:
    """How many tokens the network is shown at most."""
    config = source.expert.config
    room = min(source.entry.length, int(config.get("max_position_embeddings") or source.entry.length))
    if config.get("model_type") in _OFFSET_POSITIONS:
        room = min(room, int(config["max_position_embeddings"]) - int(config.get("pad_token_id") or 0) - 1)
    return room


def require_known(source: Source, tokens: Iterable[torch.Tensor], size: int | None = None) -> None:
    """Refuses tokens that the network does not know.

    Args:
        source: The task.
        tokens: Of any shape.
        size: How many it knows; by default what its config says.

    Raises:
        BadInput: If there is one.
    """
    size, most = size or source.expert.config.get("vocab_size"), max(int(held.max()) for held in tokens)
    if isinstance(size, int) and most >= size:
        raise BadInput(
            f"The tokenizer for {source.name!r} gives the token {most} and the network knows {size}; expected the "
            "tokenizer that it was trained with."
        )


_OFFSET_POSITIONS = {"roberta", "xlm-roberta", "xlm-roberta-xl", "camembert", "mpnet", "longformer", "data2vec-text"}
"""Types that count positions from behind the padding token on."""
