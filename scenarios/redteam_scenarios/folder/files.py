"""The files that a scenario names: what they are, and whether they are still what they were."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator

from redteam_scenarios.folder.schema import FIT, Plan


def state_of(plan: Plan) -> str:
    """A digest of the file, and of names, sizes and times of everything that it names; nothing else is read."""
    digest = hashlib.sha256(plan.file.read_bytes())
    for text in named_in(plan):
        path = plan.path(text)
        digest.update(f"\0{text}".encode())
        for one in sorted(path.rglob("*")) if path.is_dir() else [path]:
            if one.is_file():
                found = one.stat()
                digest.update(f"\0{one}\0{found.st_size}\0{found.st_mtime_ns}".encode())
    return digest.hexdigest()


def named_in(plan: Plan) -> Iterator[str]:
    """Every path, or name on the hub, that stands in the file."""
    yield plan.base
    yield from plan.runs
    for task in plan.tasks.values():
        named = (task.model, task.data, task.validation_data, task.test_data, task.corpus, task.head)
        yield from (text for text in named if text and text != FIT)
