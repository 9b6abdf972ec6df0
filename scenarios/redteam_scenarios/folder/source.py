"""What a kind of task is given to make a task from."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from redteam.checkpoint import Checkpoint
from redteam.errors import BadInput
from redteam.tasks import Split
from redteam_scenarios.folder.datasets import Table, tables_in
from redteam_scenarios.folder.models import class_names
from redteam_scenarios.folder.schema import LM_EVAL, TaskEntry
from redteam_scenarios.folder.splits import SPLITS, T, by_dataset, by_file, by_share
from redteam_scenarios.folder.tables import Row, column


@dataclass(frozen=True)
class Source:
    """A task of a scenario's file, with its models.

    Attributes:
        name: What the task is called.
        entry: What the file says of it.
        data: Where the data are: one path, or those of train, validation and test.
        expert: The expert.
        base: The base.
        others: What else the file names: the `corpus`, the `head`.
        homes: Where tokenizers and processors are looked for: the expert's place, then the base's.
    """

    name: str
    entry: TaskEntry
    data: tuple[Path, ...]
    expert: Checkpoint
    base: Checkpoint
    homes: tuple[Path, ...]
    others: Mapping[str, Path] = field(default_factory=dict)

    @property
    def is_verbatim(self) -> bool:
        """Whether prompts and what stands behind them have the blanks between them that they should have."""
        return self.entry.data.startswith(LM_EVAL)

    def rows(self, shown: Sequence[str], labels: Sequence[str] = ()) -> dict[Split, list[Row]]:
        """The rows of its tables, in splits; see `redteam_scenarios.folder.splits`.

        Args:
            shown: Columns that a network is shown; rows that are alike there are one.
            labels: Columns of what it should answer.

        Raises:
            BadInput: If a column is missing, or a row has nothing in it.
        """
        given = {split: rows for split, (_, rows) in self.labelled(shown, labels).items()}
        return self.split_up(given, lambda row: "\0".join(str(row[name]) for name in shown))

    def labelled(self, shown: Sequence[str], labels: Sequence[str]) -> dict[Split, tuple[Table, list[Row]]]:
        """Split → its table, and its rows with classes under the names that the head knows.

        Raises:
            BadInput: If a column is missing, or a row has nothing in it.
        """
        tables = self._tables(labels)
        for table in tables.values():
            for name in (*shown, *labels):
                column(table.rows, name, table.path)
        return {split: (table, self._named(table, labels)) for split, table in tables.items()}

    def split_up(self, given: Mapping[Split, Sequence[T]], key: Callable[[T], str]) -> dict[Split, list[T]]:
        """Splits that share no row: as files or a dataset have them, or by the shares that are to be held out.

        Args:
            given: Split → rows; everything is training data where there are no splits.
            key: What a network is shown of a row.
        """
        entry, name = self.entry, self.name
        if len(self.data) > 1:
            return by_file(given, key, limit=entry.limit, task=name)
        if len(given) > 1:
            return by_dataset(given, key, validation=entry.validation, limit=entry.limit, task=name)
        (rows,) = given.values()
        return by_share(rows, key, validation=entry.validation, test=entry.test, limit=entry.limit, task=name)

    def tables(self) -> dict[Split, Table]:
        """Split → table, of the one dataset or of the files for each split."""
        found = [tables_in(path) for path in self.data]
        if len(found) == 1:
            return found[0]
        result: dict[Split, Table] = {}
        for split, tables, path in zip(SPLITS, found, self.data, strict=True):
            if split not in tables and len(tables) > 1:
                raise BadInput(f"{path} has the splits {', '.join(tables)} and no {split}; name the folder of one.")
            result[split] = tables.get(split) or next(iter(tables.values()))
        return result

    def _tables(self, labels: Sequence[str]) -> dict[Split, Table]:
        """The same without a test split whose labels are kept secret, as those of many benchmarks are."""
        tables = self.tables()
        secret = labels and "test" in tables and all(row.get(labels[0]) in (-1, None) for row in tables["test"].rows)
        return {split: table for split, table in tables.items() if not (secret and split == "test" and len(tables) > 1)}

    def _named(self, table: Table, labels: Sequence[str]) -> list[Row]:
        """Rows with the names of classes in place of their numbers in the data, where the head goes by these names."""
        known = set(self.entry.labels or class_names(self.expert.config))
        told = {name: table.names[name] for name in labels if set(table.names.get(name, "?")) <= known}
        if not told:
            return table.rows
        return [{**row, **{name: _name(row[name], names) for name, names in told.items()}} for row in table.rows]

    def labels(self, values: Sequence[Any]) -> list[int]:
        """The classes of labels as they stand in the data: numbers of the head's outputs, or their names.

        Raises:
            BadInput: If the head has no such class.
        """
        names = list(self.entry.labels) or class_names(self.expert.config)
        places = {name: place for place, name in enumerate(names)}
        found = []
        for value in values:
            text = str(value).strip()
            place = places.get(text)
            if place is None and text.lstrip("-").isdigit() and 0 <= int(text) < len(names):
                place = int(text)
            if place is None:
                shown = ", ".join(names[:6]) + (", …" if len(names) > 6 else "")
                raise BadInput(
                    f"The data of {self.name!r} have the label {text!r}, which the head of its expert doesn't know; it "
                    f'knows {shown or "none"}. Name the classes in the order of its outputs: labels = ["…", "…"].'
                )
            found.append(place)
        return found


def _name(value: Any, names: Sequence[str]) -> Any:
    return names[value] if isinstance(value, int) and 0 <= value < len(names) else value
