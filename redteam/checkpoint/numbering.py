"""Tokens under other numbers: which tensors have an entry for each token, and what moves them with the tokenizer."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from redteam.checkpoint.checkpoint import Checkpoint
from redteam.checkpoint.known import completed
from redteam.checkpoint.naming import frame_of
from redteam.checkpoint.tensors import NUMBERS
from redteam.errors import BadInput, IllegalGauge

_NAMED = re.compile(r"(_token_id|_token|_tokens|_ids|_index|_idx)$")


@dataclass(frozen=True)
class TokenTables:
    """The tensors of a checkpoint that have an entry for each token.

    Attributes:
        size: How many tokens all of them have an entry for.
        axes: Name of a tensor → the dimension along which they lie. Matrices are embeddings and heads, the rest biases.
    """

    size: int
    axes: Mapping[str, int]


def token_tables(checkpoint: Checkpoint) -> TokenTables:
    """The token embeddings of a checkpoint, the heads that give a logit for each token, and these heads' biases.

    Raises:
        BadInput: If transformers knows no such network, it has vocabularies of several sizes, or a table is stored in
            parts.
        IllegalGauge: If the network takes no tokens.
    """
    frame = frame_of(checkpoint)
    if frame is None:
        raise BadInput(
            f"Where {checkpoint.architecture or 'a network without a config'!r} has its tokens is not known; expected "
            "a network of transformers, with the config that names it."
        )
    sizes, found = frame.token_tables
    if not sizes:
        raise IllegalGauge(
            f"A network of type {checkpoint.architecture!r} has no vocabulary: it takes no tokens; expected one with "
            "token embeddings, such as 'llama' or 'bert'."
        )
    if len(sizes) > 1:
        raise BadInput(
            f"The network has vocabularies of {' and '.join(map(str, sorted(sizes)))} tokens; expected a single one."
        )
    if any(_reads_the_largest(part) for part in _parts(completed(checkpoint.config))):
        raise IllegalGauge(
            f"A network of type {checkpoint.architecture!r} takes what a text means from where its token of the "
            "largest number stands, so that numbers matter to it; expected one that looks for its end token by number, "
            "such as a CLIP whose config names it (eos_token_id)."
        )
    places = {name: place for name, place in frame.places(checkpoint).items() if place.parameter in found}
    if parts := [name for name, place in places.items() if place.part]:
        raise BadInput(f"{parts[0]!r} is a part of a table of tokens; expected tables that are tensors of their own.")
    axes = {name: found[place.parameter] for name, place in places.items()}
    if not axes:
        raise BadInput("The checkpoint has no token embeddings; expected the whole network.")
    return TokenTables(min(checkpoint.shape(name)[axis] for name, axis in axes.items()), axes)


def numbers_of(checkpoint: Checkpoint) -> Tensor:
    """Where each token is, int64 [2, m]: its number by the base's tokenizer, and by the one that goes with this.

    As `NUMBERS` says, or else as it is: every token under its own number, but for those that the config names.

    Raises:
        BadInput, IllegalGauge: As `token_tables`.
    """
    if NUMBERS in checkpoint:
        return checkpoint[NUMBERS]
    named = tokens_named(checkpoint.config) | tokens_named(completed(checkpoint.config))
    numbers = torch.tensor([token for token in range(token_tables(checkpoint).size) if token not in named])
    return numbers.to(torch.int64).expand(2, -1)


def renumbered(checkpoint: Checkpoint, moved: Tensor) -> Checkpoint:
    """A checkpoint whose tokens have other numbers, and its tokenizer, as `NUMBERS` then says; lazy.

    Args:
        checkpoint: A checkpoint.
        moved: int64 [2, k], numbers and those that take their places; the same ones in another order.

    Raises:
        BadInput, IllegalGauge: As `token_tables`, and if it has fewer tokens.
    """
    tables = token_tables(checkpoint)
    if moved.numel() and int(moved.max()) >= tables.size:
        raise BadInput(
            f"There is a token {int(moved.max())} to be moved and tables have {tables.size} entries; expected the "
            "tokenizer that goes with the checkpoint."
        )

    def read(name: str) -> Tensor:
        table = checkpoint[name]
        out, into = (row.to(table.device) for row in moved)
        return table.index_copy(tables.axes[name], into, table.index_select(tables.axes[name], out))

    numbers = numbers_of(checkpoint)
    there = torch.arange(1 + max(int(x.max()) for x in (numbers, moved) if x.numel()) if numbers.numel() else 0)
    there[moved[0]] = moved[1]
    now = torch.stack([numbers[0], there[numbers[1]]])
    changed = checkpoint.replace(Checkpoint.computed(checkpoint.outline(tables.axes), read))
    if torch.equal(now[0], now[1]):
        return changed.only(name for name in changed if name != NUMBERS)
    return changed.replace({NUMBERS: now})


def tokens_named(config: Mapping[str, Any]) -> set[int]:
    """The tokens that a config names by their numbers, and some counts, for which a row more stays."""
    entries = (item for part in _parts(config) for item in part.items())
    return {token for key, value in entries if _NAMED.search(str(key)) for token in _whole(value)}


def _parts(config: Mapping[str, Any]) -> Iterator[Mapping[str, Any]]:
    """A config and all those that are in it."""
    yield config
    for value in config.values():
        if isinstance(value, Mapping):
            yield from _parts(value)


def _reads_the_largest(config: Mapping[str, Any]) -> bool:
    """Whether a text tower does: OWL-ViT's and GroupViT's, and CLIP's under the end token 2 of its first releases."""
    kind = str(config.get("model_type", ""))
    first = kind.startswith("clip") and config.get("eos_token_id") == 2
    return "vocab_size" in config and (first or kind.startswith(("owl", "groupvit")))


def _whole(value: Any) -> Iterator[int]:
    if isinstance(value, (list, tuple)):
        for one in value:
            yield from _whole(one)
    elif type(value) is int:
        yield value
