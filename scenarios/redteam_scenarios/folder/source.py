"""What a kind of task is given to make a task from."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from redteam.checkpoint import Checkpoint
from redteam.errors import BadInput
from redteam.tasks import Split
from redteam_scenarios.folder.models import class_names
from redteam_scenarios.folder.schema import TaskEntry
from redteam_scenarios.folder.splits import by_file, by_share
from redteam_scenarios.folder.tables import Row, column, read_table


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

    def rows(self, shown: Sequence[str], labels: Sequence[str] = ()) -> dict[Split, list[Row]]:
        """The rows of its tables, in splits; see `redteam_scenarios.folder.splits`.

        Args:
            shown: Columns that a network is shown; rows that are alike there are one.
            labels: Columns of what it should answer.

        Raises:
            BadInput: If a column is missing, or a row has nothing in it.
        """
        tables = [read_table(path) for path in self.data]
        for table, path in zip(tables, self.data, strict=True):
            for name in (*shown, *labels):
                column(table, name, path)

        def key(row: Row) -> str:
            return "\0".join(str(row[name]) for name in shown)

        entry = self.entry
        if len(tables) == 1:
            return by_share(
                tables[0], key, validation=entry.validation, test=entry.test, limit=entry.limit, task=self.name
            )
        given: dict[Split, list[Row]] = dict(zip(("train", "validation", "test"), tables, strict=True))
        return by_file(given, key, limit=entry.limit, task=self.name)

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
