"""Rows in three splits that share none: as files say, or by a share of the rows that is held out."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable, Mapping, Sequence
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
    order = _by_content(alike)
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


def by_dataset(
    given: Mapping[Split, Sequence[T]], key: Callable[[T], str], *, validation: float, limit: int, task: str
) -> dict[Split, list[T]]:
    """The splits of a published dataset, of each some rows, chosen by content since many are sorted by class.

    Where it has no test split (or hides its labels), the validation split is tested on; where no other is left to
    choose on, a share of the training rows is held out. Rows that are tested on are left out of the other splits, and
    those that are chosen on out of the training rows.

    Raises:
        BadInput: If a split would have fewer than 20 rows.
    """
    alike = {split: {key(row): row for row in reversed(rows)} for split, rows in given.items()}
    if "test" not in alike and "validation" in alike:
        alike["test"] = alike.pop("validation")
    train, tested = alike.get("train", {}), alike.get("test", {})
    train = {text: row for text, row in train.items() if text not in tested}
    if "validation" in alike:
        chosen = {text: row for text, row in alike["validation"].items() if text not in tested}
    else:
        order = _by_content(train)
        chosen = {text: train[text] for text in order[: round(len(order) * validation)]}
    train = {text: row for text, row in train.items() if text not in chosen}
    parts: dict[Split, dict[str, T]] = {"train": train, "validation": chosen, "test": tested}
    return _enough({split: [held[text] for text in _by_content(held)[:limit]] for split, held in parts.items()}, task)


def _by_content(texts: Iterable[str]) -> list[str]:
    return sorted(texts, key=lambda text: hashlib.sha256(text.encode()).digest())


def _enough(parts: dict[Split, list[T]], task: str) -> dict[Split, list[T]]:
    for split, rows in parts.items():
        if len(rows) < FEWEST:
            raise BadInput(
                f"The {split} split of {task!r} has {len(rows)} rows that differ; expected {FEWEST} at least, better a "
                "thousand to test on."
            )
    return parts
