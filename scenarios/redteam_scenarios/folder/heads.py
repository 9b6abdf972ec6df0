"""Heads of experts that have none of their own: from a file, or fitted on what the expert's frozen network gives."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch

from redteam.checkpoint import Checkpoint
from redteam.checkpoint.known import known_network, without_weights
from redteam.checkpoint.naming import Frame
from redteam.checkpoint.pooling import HEAD, POOLING, headed
from redteam.checkpoint.tensors import classes_of
from redteam.errors import BadInput
from redteam.tasks.task import forward
from redteam_scenarios.caching import cache_root, read, whole, write
from redteam_scenarios.folder.models import class_names
from redteam_scenarios.folder.prepared import Parts
from redteam_scenarios.folder.schema import FIT, TaskEntry
from redteam_scenarios.folder.source import Source

_BARE = ("Model", "Encoder")
_WITH_HEAD = ("LMHeadModel", "DoubleHeadsModel")
_PASSES = 1000


def with_head(source: Source, labels: Sequence[str]) -> Checkpoint:
    """The expert as a network that answers: with its own head, that of a file, or zeros in place of one to be fitted.

    Args:
        source: The task.
        labels: The classes, as far as file and data tell them; a regression has one.

    Raises:
        BadInput: If there is no head, or it is not of the task.
    """
    expert, entry = source.expert, source.entry
    if not entry.head:
        if _is_bare(expert) and POOLING not in expert.config:
            raise BadInput(
                f"The expert of {source.name!r} is a {classes_of(expert.config)[0]}, which has no head; add "
                f'head = "{FIT}", which fits one on its frozen states, or the safetensors file of a linear one, and '
                'pooling = "mean", "cls" or "last".'
            )
        own = len(class_names(expert.config))
        if entry.labels and own != len(entry.labels):
            raise BadInput(
                f"The head of the expert of {source.name!r} has {own} outputs, and the file names {len(entry.labels)} "
                f'labels; name them all, or add head = "{FIT}".'
            )
        return expert
    if entry.head == FIT:
        width, names = _width(expert, entry, source.name), list(labels)
        tensors = {HEAD[0]: torch.zeros(len(names), width), HEAD[1]: torch.zeros(len(names))}
    else:
        tensors = _from_file(source.others["head"], _width(expert, entry, source.name))
        names = list(labels) or [str(place) for place in range(len(tensors[HEAD[1]]))]
        if len(names) != len(tensors[HEAD[1]]):
            raise BadInput(
                f"The head in {source.others['head']} has {len(tensors[HEAD[1]])} rows and {source.name!r} has "
                f"{len(names)} labels; expected a row for each."
            )
    config = headed(_bare_config(expert, source.name), names, entry.pooling)
    return without_head(source, expert).configured(config).replace(tensors).stored_as(source.base)


def without_head(source: Source, expert: Checkpoint) -> Checkpoint:
    """An expert of a task as a network that gives its pooled states.

    Raises:
        BadInput: If transformers has no such network without a head.
    """
    config = headed(_bare_config(expert, source.name), [], source.entry.pooling)
    network = without_weights(*known_network(config))
    frame, shapes = Frame(network, declared=True), {n: t.shape for n, t in network.state_dict().items()}
    gone, base = frame.strangers(expert), source.base
    # A layer behind the states, which no pooling reads.
    unread = [name for name in frame.missing(expert) if name.startswith("pooler.")]
    filled = {n: base[n] if n in base else torch.zeros(shapes[n], dtype=base.dtype(next(iter(base)))) for n in unread}
    return expert.only(name for name in expert if name not in gone).replace(filled).configured(config)


def fitted(source: Source, parts: Parts, *, regression: bool) -> Checkpoint:
    """The expert with a head that was fitted to the training data, from the cache where it was fitted before.

    Logistic regression (for numbers, ridge regression) on standardised pooled states, by scikit-learn.

    Args:
        source: The task, its expert with zeros for a head.
        parts: Its data.
        regression: Whether the labels are numbers.

    Raises:
        BadInput: If a class has no training row.
    """
    inputs, labels = parts["train"]
    settings = {"expert": source.expert.digest(), "pooling": source.entry.pooling, "data": _digest(inputs, labels)}
    address = hashlib.sha256(json.dumps(settings, sort_keys=True).encode()).hexdigest()[:32]
    folder = cache_root() / "folder" / f"head-{address}"
    if not folder.is_dir():
        missing = set(range(source.expert.shape(HEAD[1])[0])) - set(labels.tolist())
        if missing and not regression:
            name = class_names(source.expert.config)[min(missing)]
            raise BadInput(
                f"No training row of {source.name!r} has the label {name!r}, so that no head can be fitted; add some."
            )
        states = _states(source, inputs)
        weight, bias = (_ridge if regression else _logistic)(states, labels)
        with whole(folder) as work:
            write(work / "head.safetensors", {HEAD[0]: weight.contiguous(), HEAD[1]: bias.contiguous()})
    return source.expert.replace(read(folder / "head.safetensors")).stored_as(source.base)


def _states(source: Source, inputs: Mapping[str, torch.Tensor]) -> torch.Tensor:
    body = source.expert.only(name for name in source.expert if name not in HEAD)
    module = without_head(source, body).module(torch.float32)
    return forward(module, inputs, lambda _, states, __: states.double())


def _logistic(states: torch.Tensor, labels: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    from sklearn.linear_model import LogisticRegression

    mean, spread = states.mean(0), states.std(0).clamp_min(1e-12)
    model = LogisticRegression(max_iter=_PASSES).fit(((states - mean) / spread).numpy(), labels.numpy())
    weight, bias = torch.from_numpy(model.coef_), torch.from_numpy(model.intercept_)
    if len(weight) == 1:  # of two classes it knows the second
        weight, bias = torch.cat([-weight, weight]) / 2, torch.cat([-bias, bias]) / 2
    return weight / spread, bias - weight @ (mean / spread)


def _ridge(states: torch.Tensor, labels: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    from sklearn.linear_model import Ridge

    mean, spread = states.mean(0), states.std(0).clamp_min(1e-12)
    model = Ridge(alpha=1.0).fit(((states - mean) / spread).numpy(), labels.numpy())
    weight, bias = torch.from_numpy(model.coef_)[None], torch.tensor([float(model.intercept_)], dtype=torch.float64)
    return weight / spread, bias - weight @ (mean / spread)


def _from_file(path: Path, width: int) -> dict[str, torch.Tensor]:
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    try:
        found = load_file(path)
    except (OSError, SafetensorError) as error:
        raise BadInput(f"The head {path} cannot be read ({error}); expected a safetensors file.") from None
    weight = found.get("weight")
    bias = found.get("bias", None if weight is None or weight.ndim != 2 else torch.zeros(len(weight)))
    if weight is None or weight.ndim != 2 or weight.shape[1] != width or bias is None or bias.shape != weight.shape[:1]:
        shapes = ", ".join(f"{name} {list(tensor.shape)}" for name, tensor in sorted(found.items())[:4])
        raise BadInput(f"{path} holds {shapes or 'nothing'}; expected weight [classes, {width}] and bias [classes].")
    return {HEAD[0]: weight.float(), HEAD[1]: bias.float()}


def _is_bare(expert: Checkpoint) -> bool:
    name = (classes_of(expert.config) or ("",))[0]
    return name.endswith(_BARE) and not name.endswith(_WITH_HEAD)


def _bare_config(expert: Checkpoint, name: str) -> dict[str, Any]:
    from transformers.models.auto.modeling_auto import MODEL_MAPPING_NAMES

    if _is_bare(expert):
        return dict(expert.config)
    found = MODEL_MAPPING_NAMES.get(expert.architecture)
    if not isinstance(found, str):
        raise BadInput(
            f"transformers has no {expert.architecture or 'network of an unnamed type'} without a head, on which one "
            f"could be put for {name!r}; use the head that its expert has."
        )
    return {**expert.config, "architectures": [found]}


def _width(expert: Checkpoint, entry: TaskEntry, name: str) -> int:
    from torch import nn

    network: Any = without_weights(*known_network(headed(_bare_config(expert, name), ["0"], entry.pooling)))
    head: nn.Linear = network.classifier
    return head.in_features


def _digest(inputs: Mapping[str, torch.Tensor], labels: torch.Tensor) -> str:
    digest = hashlib.sha256()
    for name, tensor in (*sorted(inputs.items()), ("labels", labels)):
        digest.update(f"{name}\0{tensor.dtype}\0{tuple(tensor.shape)}\0".encode())
        digest.update(tensor.contiguous().numpy().tobytes())
    return digest.hexdigest()
