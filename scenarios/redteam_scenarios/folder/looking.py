"""What can be said of the models and data that a file names before they are read as a whole."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from redteam.anatomy.alike import named_alike, require_related
from redteam.checkpoint import Checkpoint
from redteam.checkpoint.vocabulary import token_rows
from redteam.errors import BadInput
from redteam.plugins.remarks import Remark
from redteam_scenarios.folder.assembling import data_of
from redteam_scenarios.folder.datasets import is_dataset, tables_in
from redteam_scenarios.folder.models import beside, located, opened_at, places, tokenizer_of
from redteam_scenarios.folder.schema import Plan, TaskEntry
from redteam_scenarios.folder.tables import Row

TEXTS = 64
"""Texts of a task that tokenizers are compared on."""
_TOKENIZERS = ("tokenizer.json", "tokenizer_config.json", "vocab.txt", "spiece.model")
_PROCESSORS = ("preprocessor_config.json",)
_PIXELS = ("size", "crop_size", "do_resize", "do_rescale", "do_normalize", "image_mean", "image_std", "rescale_factor")
"""What decides on the pixels that a network is shown."""


def remarks(plan: Plan, seed: int) -> Iterator[Remark]:
    """A line about each thing that was looked at.

    Args:
        plan: The scenario's file.
        seed: Which of the victims.

    Raises:
        BadInput: If a model or a table that the file names is not there.
    """
    home, homes = located(plan, plan.base, plan.revision), places(plan, seed)
    data = {name: data_of(plan, entry) for name, entry in plan.tasks.items()}
    base = Checkpoint.open(home)
    experts: dict[str, Checkpoint] = {}
    named = {**homes, **_further_victims(plan, seed)}
    for name, place in named.items():
        try:
            experts[name] = opened_at(place, base, f"the expert of {name!r}")
        except BadInput as error:
            yield Remark("WRONG", "models", str(error).rstrip("."))
    if len(experts) < len(named):
        return
    yield from _shapes(base, experts)
    yield from _vocabularies(base, experts)
    yield from _dtypes(base, experts)
    for name, entry in plan.tasks.items():
        if entry.train:
            how = "" if entry.lora is None else f" by LoRA of rank {entry.lora}"
            told = f"{name!r} is fine-tuned from the base first{how}, {entry.steps} steps, and kept in the cache"
            yield Remark("note", "training", told)
        else:
            yield from _tokenizers(name, homes[name], home, _texts(data[name][0]))
            yield from _processors(name, homes[name], home)
        yield from _repeated(name, entry, data[name][0])


def _further_victims(plan: Plan, seed: int) -> dict[str, Path]:
    """What the other seeds' victims are called in a line → where they are."""
    if plan.turns or plan.tasks[plan.victim].train:
        return {}
    others = [n for n in range(len(plan.experts)) if n != seed]
    return {f"{plan.victim}, {plan.experts[other]}": places(plan, other)[plan.victim] for other in others}


def _shapes(base: Checkpoint, experts: Mapping[str, Checkpoint]) -> Iterator[Remark]:
    wrong = False
    anchor, *alike = named_alike(base, *experts.values())
    for name, expert in zip(experts, alike, strict=True):
        try:
            require_related(expert, anchor, f"the expert of {name!r}")
        except BadInput as error:
            wrong = True
            yield Remark("WRONG", "shapes", str(error).rstrip("."))
    if not wrong:
        count = base.weights
        told = (
            f"the base and {len(experts)} experts are {base.architecture} of one shape, {count / 1e6:.3g} M parameters"
        )
        yield Remark("ok", "architecture", told)


def _vocabularies(base: Checkpoint, experts: Mapping[str, Checkpoint]) -> Iterator[Remark]:
    longer = {name: rows for name, expert in experts.items() if (rows := token_rows(expert, base))}
    for name, rows in longer.items():
        tensor = next(iter(rows))
        here, there = experts[name].shape(tensor)[0], base.shape(tensor)[0]
        yield Remark(
            "WRONG",
            "vocabulary",
            f"the expert of {name!r} knows {here} tokens and the base {there}, so that {tensor!r} would not be merged; "
            "cut or pad the one to the other's, which `redteam merge` does where tokens were added at the end",
        )
    if not longer and isinstance(size := base.config.get("vocab_size"), int):
        yield Remark("ok", "vocabulary", f"{size} tokens in all")


def _dtypes(base: Checkpoint, experts: Mapping[str, Checkpoint]) -> Iterator[Remark]:
    stored = {name: _dtype(one) for name, one in {"the base": base, **experts}.items()}
    if len(set(stored.values())) == 1:
        yield Remark("ok", "dtype", stored["the base"])
    else:
        told = ", ".join(f"{name} {dtype}" for name, dtype in stored.items())
        yield Remark("note", "dtype", f"{told}; all are read in the base's")


def _dtype(checkpoint: Checkpoint) -> str:
    found = {str(checkpoint.dtype(name)).removeprefix("torch.") for name in checkpoint}
    return " and ".join(sorted(found))


def _tokenizers(name: str, place: Path, home: Path, texts: list[str]) -> Iterator[Remark]:
    mine, theirs = (beside(one, names=_TOKENIZERS) for one in (place, home))
    if not texts or mine is None or theirs is None or mine == theirs:
        return
    here, there = (tokenizer_of(one)(texts)["input_ids"] for one in (place, home))
    different = [text for text, one, other in zip(texts, here, there, strict=True) if one != other]
    if different:
        shown = different[0][:40] + "…" * (len(different[0]) > 40)
        yield Remark(
            "WRONG",
            "tokenizer",
            f"the tokenizers of {name!r} and of the base cut {len(different)} of {len(texts)} texts otherwise, for "
            f"example {shown!r}; a merge would be shown tokens that mean something else to it",
        )
    else:
        yield Remark("ok", "tokenizer", f"{name!r} and the base cut {len(texts)} texts alike")


def _processors(name: str, place: Path, home: Path) -> Iterator[Remark]:
    mine, theirs = (beside(one, names=_PROCESSORS) for one in (place, home))
    if mine is None or theirs is None or mine == theirs:
        return
    here, there = (_json(one / _PROCESSORS[0]) for one in (mine, theirs))
    different = [entry for entry in _PIXELS if here.get(entry) != there.get(entry)]
    if different:
        told = f"pictures of {name!r} are read otherwise than the base reads them ({', '.join(different)})"
        yield Remark("note", "pictures", told)


def _repeated(name: str, entry: TaskEntry, path: Path) -> Iterator[Remark]:
    try:
        rows = _rows(path)
    except BadInput as error:
        yield Remark("WRONG", "data", str(error).rstrip("."))
        return
    columns = [column for column in _columns(entry) if rows and column in rows[0]]
    kept = {tuple(str(row.get(column)) for column in columns) for row in rows}
    if columns and len(kept) < len(rows):
        told = f"{len(rows) - len(kept)} of {len(rows)} rows for {name!r} say what another says too, and are left out"
        yield Remark("note", "data", told)


def _columns(entry: TaskEntry) -> tuple[str, ...]:
    texts = (entry.text,) if isinstance(entry.text, str) else entry.text
    return (*texts, entry.image)


def _texts(path: Path) -> list[str]:
    """Some texts of a task's data, of each row the longest, whatever column it stands in."""
    try:
        rows = _rows(path)[:TEXTS]
    except BadInput:
        return []  # said elsewhere
    texts = ([value for value in row.values() if isinstance(value, str)] for row in rows)
    return [max(found, key=len) for found in texts if found]


def _rows(path: Path) -> list[Row]:
    """The rows of tables, of all splits; none of pictures in folders.

    Raises:
        BadInput: If they cannot be read.
    """
    if path.is_dir() and not is_dataset(path):
        return []
    return [row for table in tables_in(path).values() for row in table.rows]


def _json(path: Path) -> dict[str, Any]:
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return found if isinstance(found, dict) else {}
