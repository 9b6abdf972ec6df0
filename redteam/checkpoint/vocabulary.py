"""Vocabularies of different lengths: tokens are added at the end, and rows are padded there."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch

from redteam.checkpoint.checkpoint import Checkpoint


def token_rows(one: Checkpoint, other: Checkpoint) -> dict[str, int]:
    """Tensors with a row for each token of which two checkpoints have different numbers → rows in common.

    They are told by the configs' `vocab_size`: heads of tasks have as many rows as labels, and nothing in common.
    """
    here, there = vocabulary_sizes(one.config), vocabulary_sizes(other.config)
    return {
        name: min(one.shape(name)[0], other.shape(name)[0])
        for name in one
        if name in other
        and one.shape(name) != other.shape(name)
        and one.shape(name)[1:] == other.shape(name)[1:]
        and one.shape(name)[0] in here
        and other.shape(name)[0] in there
    }


def in_common(one: Checkpoint, other: Checkpoint) -> tuple[Checkpoint, Checkpoint]:
    """Both with the rows of the tokens that both have; as they are where these are all."""
    rows = token_rows(one, other)
    return (_cut(one, rows), _cut(other, rows)) if rows else (one, other)


def as_long_as(checkpoint: Checkpoint, base: Checkpoint) -> Checkpoint:
    """With the base's number of tokens: without those that it lacks, and with its rows for those that are missing."""
    rows = token_rows(checkpoint, base)
    if not rows:
        return checkpoint

    def read(name: str) -> torch.Tensor:
        own, whole = checkpoint[name][: rows[name]], base[name]
        return torch.cat([own, whole[rows[name] :].to(own.dtype)]) if len(whole) > rows[name] else own.clone()

    outline = {name: (base.shape(name), checkpoint.dtype(name)) for name in rows}
    return checkpoint.replace(Checkpoint.computed(outline, read))


def _cut(checkpoint: Checkpoint, rows: Mapping[str, int]) -> Checkpoint:
    outline = {name: ((rows[name], *checkpoint.shape(name)[1:]), checkpoint.dtype(name)) for name in rows}
    cut = Checkpoint.computed(outline, lambda n: checkpoint[n][: rows[n]].clone())
    return checkpoint.replace(cut)


def vocabulary_sizes(config: Mapping[str, Any]) -> set[int]:
    """How many tokens a config, or a part of it, says that there are."""
    parts = [config, *(value for value in config.values() if isinstance(value, Mapping))]
    return {size for part in parts if isinstance(size := part.get("vocab_size"), int)}
