"""Regression and retrieval: a number for a text, and passages found for a query."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence

import torch

from redteam.errors import BadInput
from redteam.tasks import Regression, Retrieval
from redteam.tasks.retrieval import MISSING, expected
from redteam_scenarios.folder.datasets import tables_in
from redteam_scenarios.folder.kinds.text import columns, texts, tokenized
from redteam_scenarios.folder.prepared import Parts
from redteam_scenarios.folder.source import Source
from redteam_scenarios.folder.tables import Row, column

_CORPUS = "corpus"


def numbers(source: Source) -> Parts:
    """Tokens and numbers of a table's rows."""
    rows = source.rows(columns(source), (source.entry.label,))
    tokens = tokenized(source, {split: texts(source, held) for split, held in rows.items()})
    return {
        split: (tokens[split], torch.tensor([_number(source, row) for row in held], dtype=torch.float64))
        for split, held in rows.items()
    }


def regressed(source: Source, parts: Parts) -> Regression:
    """The task."""
    labels = {split: labels for split, (_, labels) in parts.items()}
    for split, held in labels.items():
        if not float(held.std()):
            raise BadInput(
                f"Every {split} row of {source.name!r} has the same {source.entry.label!r}, so that nothing can be "
                "told; add others."
            )
    return Regression(
        source.name, 0.0, {split: inputs for split, (inputs, _) in parts.items()}, labels, float(labels["train"].std())
    )


def queries(source: Source) -> Parts:
    """Tokens of queries and of the passages of a corpus, and which of these are relevant to which."""
    entry = source.entry
    rows = source.rows((entry.query,), (entry.relevant,))
    passages = _passages(source)
    wanted = {key for held in rows.values() for row in held for key in _relevant(source, row)}
    if unknown := wanted - passages.keys():
        raise BadInput(
            f"The data of {source.name!r} call the passage {min(unknown)!r} relevant, which {source.others[_CORPUS]} "
            f"does not have; expected values of its column {entry.id!r}."
        )
    others = sorted(passages.keys() - wanted, key=lambda key: hashlib.sha256(key.encode()).digest())
    kept = [*sorted(wanted), *others[: max(0, entry.passages - len(wanted))]]
    places = {key: place for place, key in enumerate(kept)}
    tokens = tokenized(
        source,
        {
            **{split: [(str(row[entry.query]),) for row in held] for split, held in rows.items()},
            _CORPUS: [(passages[key],) for key in kept],
        },
    )
    parts: Parts = {_CORPUS: (tokens[_CORPUS], torch.zeros(len(kept), dtype=torch.int64))}
    for split, held in rows.items():
        lists = [[places[key] for key in _relevant(source, row)] for row in held]
        most = max(map(len, lists))
        labels = torch.tensor([[*places, *[MISSING] * (most - len(places))] for places in lists])
        parts[split] = (tokens[split], labels)
    return parts


def retrieved(source: Source, parts: Parts) -> Retrieval:
    """The task; guessing is a random order."""
    corpus = parts[_CORPUS][0]
    held = {split: part for split, part in parts.items() if split != _CORPUS}
    counts = (held["test"][1] != MISSING).sum(1)
    chance = float(expected(counts, len(corpus["input_ids"])).mean())
    return Retrieval(
        source.name,
        chance,
        {split: inputs for split, (inputs, _) in held.items()},
        {split: labels for split, (_, labels) in held.items()},
        corpus,
    )


def _passages(source: Source) -> dict[str, str]:
    path, entry = source.others.get(_CORPUS), source.entry
    if path is None:
        raise BadInput(
            f'tasks.{source.name} asks for retrieval and names no passages; add corpus = "…", a table with the columns '
            f"{entry.id!r} and {entry.passage!r}."
        )
    rows = [row for table in tables_in(path).values() for row in table.rows]
    keys = [str(key).strip() for key in column(rows, entry.id, path)]
    found = dict(zip(keys, map(str, column(rows, entry.passage, path)), strict=True))
    if len(found) < len(rows):
        twice = next(key for place, key in enumerate(keys) if key in keys[:place])
        raise BadInput(f"{path} has two passages with the {entry.id} {twice!r}; expected one of each.")
    return found


def _relevant(source: Source, row: Row) -> Sequence[str]:
    value = row[source.entry.relevant]
    keys = value if isinstance(value, list) else str(value).split()
    if not keys:
        raise BadInput(
            f"A query of {source.name!r} has no relevant passage in {source.entry.relevant!r}; leave it out."
        )
    return list(dict.fromkeys(str(key).strip() for key in keys))


def _number(source: Source, row: Row) -> float:
    value = row[source.entry.label]
    try:
        number = float(value)
    except (TypeError, ValueError):
        number = float("nan")
    if number - number != 0:
        raise BadInput(
            f"The data of {source.name!r} have {str(value)[:40]!r} in {source.entry.label!r}; expected a number."
        )
    return number
