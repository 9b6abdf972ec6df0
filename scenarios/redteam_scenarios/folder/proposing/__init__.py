"""From a folder of models and data to a scenario's file, with a comment wherever something is a guess."""

from __future__ import annotations

import json
import os
import re
from collections.abc import Iterator, Sequence
from pathlib import Path

from redteam.errors import BadInput, UnknownName
from redteam_scenarios.folder.proposing.data import Columns, Data, columns_of, data_in, matched
from redteam_scenarios.folder.proposing.models import Family, Model, family_in

_CONTROL = re.compile(r"[\x00-\x1f\x7f\x85\u2028\u2029]")
_PLAIN = re.compile(r"[A-Za-z0-9_-]+")
_GENERIC = re.compile(r"LABEL_\d+")
"""What transformers calls classes that nobody named."""


def propose(folder: Path, file: Path, victim: str | None) -> str:
    """The text of a scenario's file.

    Args:
        folder: Where models and data lie.
        file: Where it will be written; paths in it start there.
        victim: The task whose expert is protected; by default the first.

    Raises:
        BadInput: If no models that belong together are found, or data for less than two tasks.
        UnknownName: If there is no expert of the victim's name.
    """
    family = family_in(folder)
    base = [family.base] if isinstance(family.base, Path) else []
    found = data_in(folder, [*base, *(model.path for model in family.experts)])
    pairs = matched([model.path for model in family.experts], found)
    bare = [model for model in family.experts if model.path not in pairs]
    taken = [data for data, _ in pairs.values()]
    spare = [data for data in found if data not in taken]
    tasks = {model.path.name: model for model in family.experts if model.path in pairs}
    trained = {data.name: data for data in spare if data.name not in tasks} if not bare else {}
    if not tasks or len(tasks) + len(trained) < 2:
        raise BadInput(_too_few(folder, family, found))
    if victim is not None and victim not in {**tasks, **trained}:
        raise UnknownName.among("expert with data", victim, {**tasks, **trained})
    names = [*tasks, *trained]
    if victim is not None:
        names = [victim, *(name for name in names if name != victim)]

    def place(path: Path) -> str:
        return _text(Path(os.path.relpath(path.resolve(), file.resolve().parent)).as_posix())

    lines = ["# Written by `redteam new scenario`; read it through, then: redteam check " + file.name]
    shown = place(family.base) if isinstance(family.base, Path) else _text(family.base)
    lines.append(f"base = {shown}  # {'' if family.sure else 'UNSURE: '}{family.why}")
    lines.append(f"victim = {_text(names[0])}  # whose expert is to be protected" + _others(names, victim))
    lines += [f"# Left out: {one}." for one in family.left_out]
    lines += [f"# Left out: no data are called like the model {model.path.name}." for model in bare]
    lines += [f"# Left out: no model goes with the data {data.name}." for data in spare if data.name not in trained]
    for name in names:
        lines += ["", f"[tasks.{name if _PLAIN.fullmatch(name) else _text(name)}]"]
        if name in tasks:
            data, sure = pairs[tasks[name].path]
            lines.append(f"model = {place(tasks[name].path)}")
        else:
            data, sure = trained[name], True
            lines.append("train = true  # no model goes with these data: the base is fine-tuned on them")
        lines.append(f"data = {place(data.train)}" + ("" if sure else "  # UNSURE: what was left over"))
        for split, path in (("validation_data", data.validation), ("test_data", data.test)):
            lines += [f"{split} = {place(path)}"] if path is not None else []
        lines += _settings(data, tasks.get(name))
    # Names come from files, and what stands in a comment must not end it.
    return "".join(_CONTROL.sub(" ", line) + "\n" for line in lines)


def _settings(data: Data, model: Model | None) -> Iterator[str]:
    """The lines on kind, columns and labels, where they are not what they are by default."""
    headless = model is not None and model.bare
    fit = ['head = "fit"  # the model has none of its own: fitted on its frozen states'] if headless else []
    if data.pictures:
        labels = tuple(sorted(path.name for path in data.train.iterdir() if path.is_dir()))
        yield from ['kind = "image-classification"'] if model is None or headless else []
        yield from (*fit, *_classes(labels, model))
        return
    columns = columns_of(data.train)
    if model is not None and model.causal and "answer" in columns.names:
        yield from _asked(columns)
        return
    if model is None or headless:
        kind = "image" if columns.image else "text"
        yield from [f'kind = "{kind}-classification"', *fit] if columns.label else ['kind = "perplexity"']
    doubt = "" if columns.sure else "  # UNSURE: by what stands in there"
    if columns.text and columns.text != ("text",):
        value = _text(columns.text[0]) if len(columns.text) == 1 else f"[{', '.join(map(_text, columns.text))}]"
        yield f"text = {value}{doubt}"
    if columns.image and columns.image != "image":
        yield f"image = {_text(columns.image)}"
    if columns.label and not (model is not None and model.causal):
        yield from [f"label = {_text(columns.label)}{doubt}"] if columns.label != "label" else []
        yield from _classes(columns.labels, model)


def _asked(columns: Columns) -> Iterator[str]:
    """The lines for a table of questions and answers."""
    yield f'kind = "{"multiple-choice" if "choices" in columns.names else "generation"}"'
    if "prompt" not in columns.names:
        named = next((name for name in ("question", "instruction", "input") if name in columns.names), "…")
        yield f"prompt = {_text(named)}  # UNSURE: no column is called prompt"


def _classes(labels: Sequence[str], model: Model | None) -> Iterator[str]:
    """What the head's outputs stand for, where the config doesn't say it in the data's words."""
    if model is None or not labels or not model.classes or set(labels) <= set(model.classes):
        return
    if all(label.isdigit() and int(label) < len(model.classes) for label in labels):
        return
    value = f"labels = [{', '.join(map(_text, labels))}]"
    if len(labels) == len(model.classes) and all(_GENERIC.fullmatch(name) for name in model.classes):
        yield f"{value}  # UNSURE: the order of the head's outputs, whose config names none; sorted here"
    else:
        known = ", ".join(model.classes)
        yield f"# UNSURE: its head knows {known}; the data have {', '.join(labels)}. In the order of its outputs:"
        yield f"# {value}"


def _others(names: Sequence[str], victim: str | None) -> str:
    return "" if victim is not None else f"; the first of {', '.join(names)}"


def _too_few(folder: Path, family: Family, found: Sequence[Data]) -> str:
    named = ", ".join(model.path.name for model in family.experts)
    data = ", ".join(data.name for data in found) or "none"
    return (
        f"{folder} holds the models {named} beside a base, and labelled data called {data}; a scenario takes two "
        f"tasks, so put data for each beside the models, called alike, as in {family.experts[0].path.name}.csv."
    )


def _text(value: str) -> str:
    return json.dumps(value, ensure_ascii=False)
