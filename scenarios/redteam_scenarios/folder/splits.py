"""Rows in three splits that share none: as files say, or by a share of the rows that is held out."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping, Sequence
from typing import TypeVar

from redteam.errors import BadInput
from redteam.tasks import Split

T = TypeVar("T")
SPLITS: tuple[Split, ...] = ("train", "validation", "test")
FEWEST = 20
"""Rows that a split must have: from fewer, no score can be told from chance."""


def by_share(
    rows: Sequence[T], key: Callable[[T], str], *, validation: float, test: float, limit: int, task: str
) -> dict[Split, list[T]]:
    """Splits in which a row's place depends on its content alone: other rows neither move it nor follow its order.

    Args:
        rows: All there are.
        key: What a network is shown of a row; rows that are alike are kept once.
        validation: Share that is held out for choosing.
        test: Share that is scored on.
        limit: Rows of a split at most.
        task: Whose rows they are.

    Raises:
        BadInput: If a split would have fewer than 20 rows.
    """
    alike = {key(row): row for row in reversed(rows)}
    order = sorted(alike, key=lambda text: hashlib.sha256(text.encode()).digest())
    tested, validated = round(len(order) * test), round(len(order) * validation)
    parts: dict[Split, list[str]] = {
        "test": order[:tested],
        "validation": order[tested : tested + validated],
        "train": order[tested + validated :],
    }
    return _enough({split: [alike[text] for text in parts[split][:limit]] for split in SPLITS}, task)


def by_file(
    given: Mapping[Split, Sequence[T]], key: Callable[[T], str], *, limit: int, task: str
) -> dict[Split, list[T]]:
    """The splits that files say, of each the first rows.

    Raises:
        BadInput: If a row is in two of them, or a split has fewer than 20.
    """
    cut = {split: list(given[split][:limit]) for split in SPLITS}
    pairs: tuple[tuple[Split, Split], ...] = (("test", "train"), ("test", "validation"), ("validation", "train"))
    for one, other in pairs:
        shared = {key(row) for row in cut[one]} & {key(row) for row in given[other]}
        if shared:
            raise BadInput(
                f"{len(shared)} rows of the {one} data of {task!r} are among its {other} data too; a score on what was "
                "trained on says nothing, so leave them out of one."
            )
    return _enough(cut, task)


def _enough(parts: dict[Split, list[T]], task: str) -> dict[Split, list[T]]:
    for split, rows in parts.items():
        if len(rows) < FEWEST:
            raise BadInput(
                f"The {split} split of {task!r} has {len(rows)} rows that differ; expected {FEWEST} at least, better a "
                "thousand to test on."
            )
    return parts
