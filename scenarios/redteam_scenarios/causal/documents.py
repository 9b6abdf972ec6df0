"""Documents of a fixed length, in splits that share no file and no text."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from redteam.errors import BadInput
from redteam_scenarios.causal.recipe import Recipe, Source
from redteam_scenarios.causal.text import files, texts

if TYPE_CHECKING:
    from tokenizers import Tokenizer

Documents = dict[str, torch.Tensor]  # "task/split" and "general", int16 [n, length]
Row = np.ndarray[Any, np.dtype[np.int64]]

BEGIN = 0  # the token that every document begins with
_STREAM = 2  # the other streams of a seed are in training.py
_SAMPLE = 2_000_000  # characters that tokens are learned from
_PIECE = 20_000  # characters, the most that pretraining takes of one file


def collect(recipe: Recipe, seed: int) -> tuple[Tokenizer, Documents]:
    """Learns the tokens, and cuts the documents of pretraining and of every task.

    Files are shuffled by the seed and shared out among the splits. Documents that are scored are taken first; whatever
    shares more than a little with one of another split (a licence, generated code) is left out there.

    Raises:
        BadInput: If the installed packages have too little text, or one of them does not say which files it has.
    """
    pieces = _general(recipe, np.random.default_rng([seed, _STREAM, 0]))
    tokenizer = learned(recipe, pieces)
    found: Documents = {}
    scored = _Seen(recipe)
    for number, (task, source) in enumerate(recipe.domains.items()):
        generator = np.random.default_rng([seed, _STREAM, 1, number])
        for split, paths in _shared_out(recipe, source, generator).items():
            rows = _rows(recipe, tokenizer, source, paths, recipe.file_documents[split], generator)
            count = recipe.counts[split]
            chosen = list(_first(count, scored.unlike(rows, remember=split != "train")))
            if len(chosen) < count:
                raise BadInput(
                    f"The installed packages {', '.join(source.packages)} have {len(chosen)} documents for the "
                    f"{split} split of {task!r}; expected {count}, so install the versions that the lock names."
                )
            found[f"{task}/{split}"] = _stacked(chosen)
    count = recipe.pretraining_steps * recipe.pretraining_batch
    rows = (row for piece in pieces for row in _cut(recipe, tokenizer, piece))
    general = list(_first(count, scored.unlike(rows, remember=False)))
    if len(general) < count:
        raise BadInput(f"The installed packages have {len(general)} documents to pretrain on; expected {count}.")
    return tokenizer, found | {"general": _stacked(general)}


def learned(recipe: Recipe, pieces: Sequence[str]) -> Tokenizer:
    """A byte-level BPE of the recipe's size, from the first pieces of the pretraining text."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers

    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=recipe.vocabulary,
        special_tokens=["<s>"],
        initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()),
        show_progress=False,
    )
    sizes = np.cumsum([len(piece) for piece in pieces])
    tokenizer.train_from_iterator(pieces[: int(np.searchsorted(sizes, _SAMPLE)) + 1], trainer)
    return tokenizer


def _general(recipe: Recipe, generator: np.random.Generator) -> list[str]:
    """Pieces of the pretraining text, of each package in turn, as many characters as surely are enough."""
    by_package = files(recipe.general, recipe.file_size)
    queues = [[paths[i] for i in generator.permutation(len(paths))] for paths in by_package.values()]
    wanted = 6 * recipe.pretraining_steps * recipe.pretraining_batch * recipe.length
    pieces: list[str] = []
    while any(queues) and wanted > 0:
        for queue in queues:
            for text in texts(queue.pop(), recipe.general) if queue else ():
                start = int(generator.integers(0, max(1, len(text) - _PIECE)))
                pieces.append(text[start : start + _PIECE])
                wanted -= len(pieces[-1])
    return pieces


def _shared_out(recipe: Recipe, source: Source, generator: np.random.Generator) -> dict[str, list[Path]]:
    """Split → its files."""
    paths = [path for held in files(source, recipe.file_size).values() for path in held]
    paths = [paths[i] for i in generator.permutation(len(paths))]
    ends = np.round(np.cumsum([0.0, *recipe.shares.values()]) * len(paths)).astype(int)
    return {split: paths[ends[i] : ends[i + 1]] for i, split in enumerate(recipe.shares)}


def _rows(
    recipe: Recipe,
    tokenizer: Tokenizer,
    source: Source,
    paths: Sequence[Path],
    most: int,
    generator: np.random.Generator,
) -> Iterator[Row]:
    """Documents of the files one after the other, at most so many of each, from random places."""
    for path in paths:
        rows = [row for text in texts(path, source) for row in _cut(recipe, tokenizer, text)]
        for index in generator.permutation(len(rows))[:most]:
            yield rows[index]


def _cut(recipe: Recipe, tokenizer: Tokenizer, text: str) -> list[Row]:
    """A text's documents, one behind the other; what is left at the end is too short to be one."""
    size = recipe.length - 1
    ids = np.asarray(tokenizer.encode(text).ids, np.int64)
    whole = ids[: len(ids) // size * size].reshape(-1, size)
    return [np.concatenate([[BEGIN], row]) for row in whole]


class _Seen:
    """The runs of tokens of documents that are scored."""

    def __init__(self, recipe: Recipe) -> None:
        self._stretch, self._shared = recipe.stretch, recipe.shared
        self._runs: set[bytes] = set()

    def unlike(self, rows: Iterator[Row], *, remember: bool) -> Iterator[Row]:
        """Those that share little with what is remembered."""
        for row in rows:
            ids = row[1:].astype(np.int16)
            runs = [ids[i : i + self._stretch].tobytes() for i in range(len(ids) - self._stretch + 1)]
            if sum(run in self._runs for run in runs) < self._shared * len(runs):
                if remember:
                    self._runs.update(runs)
                yield row


def _first(count: int, rows: Iterator[Row]) -> Iterator[Row]:
    for _, row in zip(range(count), rows, strict=False):
        yield row


def _stacked(rows: Sequence[Row]) -> torch.Tensor:
    return torch.from_numpy(np.stack(rows).astype(np.int16))
