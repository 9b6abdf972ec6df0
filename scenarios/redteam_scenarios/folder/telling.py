"""What `redteam show mine.toml` says: models with their licences, tasks with kinds, sizes and guessing, the caches."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from pathlib import Path

from redteam.checkpoint import Checkpoint
from redteam.checkpoint.companion_files import licence_of
from redteam.errors import BadInput
from redteam_scenarios.caching import cache_root
from redteam_scenarios.folder.assembling import data_of, kind_of
from redteam_scenarios.folder.kinds import pictures
from redteam_scenarios.folder.lm_eval_tasks import settled
from redteam_scenarios.folder.models import located, opened_at, places
from redteam_scenarios.folder.schema import Kind, Plan, TaskEntry
from redteam_scenarios.folder.source import Source
from redteam_scenarios.folder.splits import SPLITS

_PICTURES = ("image-classification", "zero-shot")
_LABELLED = (*_PICTURES, "text-classification")


def told(plan: Plan) -> Iterator[tuple[str, str]]:
    """Pairs of a word and what is said under it; no weights are read, and no network runs.

    Raises:
        BadInput: If a model or a table that the file names is not there.
    """
    home, homes = located(plan, plan.base, plan.revision), places(plan, 0)
    base = Checkpoint.open(home)
    turns = ", ".join(plan.turns)
    yield "base", f"{plan.base}, {_network(base)}, {_licence(home)}"
    runs = f", {len(plan.runs)} of one recipe" if len(plan.runs) > 1 else ""
    yield "victim", f"each in turn: {turns}" if turns else f"{plan.victim}{runs}"
    for name, entry in plan.tasks.items():
        expert = opened_at(homes[name], base, f"The expert of {name!r}") if name in homes else base
        network = f"trained from the base, {entry.steps} steps" if entry.train else _network(expert)
        licence = "" if entry.train else f", {_licence(homes[name])}"
        try:
            data = data_of(plan, entry)
            entry = settled(entry, data)
            kind = kind_of(entry, expert, name)
            sizes = _sizes(Source(name, entry, data, expert, base, (homes.get(name, home), home)), kind)
        except BadInput as error:
            kind, sizes = None, str(error)
        yield name, f"{network}{licence}; {kind or 'no task so far'}: {sizes}"
    yield "data", "as it lies there; nothing is known of its licence"
    yield "cache", f"{cache_root() / 'folder'}, where data lie as networks take them, and what was trained"


def _network(checkpoint: Checkpoint) -> str:
    named = str((checkpoint.config.get("architectures") or [checkpoint.architecture])[0])
    count = checkpoint.weights
    return f"{named} of {count / 1e6:.3g} million weights"


def _licence(place: Path) -> str:
    found = licence_of(place)
    return f"licence {found}" if found else "no licence named"


def _sizes(source: Source, kind: Kind) -> str:
    """How many items each split has, and what guessing scores, where the data alone tell."""
    if kind in _PICTURES:
        held = pictures.splits(source)
        sizes, labels = {split: len(part) for split, part in held.items()}, [label for _, label in held["test"]]
    else:
        rows = source.rows(_shown(source.entry, kind), (source.entry.label,) if kind in _LABELLED else ())
        sizes = {split: len(part) for split, part in rows.items()}
        labels = [str(row.get(source.entry.label)) for row in rows["test"]]
    counts = ", ".join(f"{sizes[split]} {split}" for split in SPLITS)
    if kind not in _LABELLED:
        return counts
    common = Counter(labels).most_common(1)[0][1] / len(labels)
    return f"{counts}; {len(set(labels))} classes, guessing {common:.2f}"


def _shown(entry: TaskEntry, kind: Kind) -> tuple[str, ...]:
    if kind == "retrieval":
        return (entry.query,)
    if kind in ("multiple-choice", "generation"):
        return (entry.prompt,)
    return (entry.text,) if isinstance(entry.text, str) else entry.text
