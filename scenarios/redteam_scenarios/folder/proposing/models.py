"""The models in a folder, and which of them is the base of the others."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from redteam.anatomy.alike import named_alike
from redteam.checkpoint import Checkpoint, shared_tensors
from redteam.checkpoint.discover import find
from redteam.checkpoint.safetensors_io import read_json
from redteam.errors import BadInput, RedteamError
from redteam.hub import is_hub_name

DEEP = 2
"""Levels of folders that are looked through."""
_ADAPTER = "adapter_config.json"
_MARKS = ("config.json", "open_clip_config.json", _ADAPTER, "modules.json")
_BARE = ("Model", "ForMaskedLM", "ForPreTraining")
"""Ends of architectures that have no task's head."""
_WHOLE = ("LMHeadModel", "CLIPModel", "SiglipModel", "Siglip2Model")
"""Ends of those that are called so and need none."""
_BY_NAME = {"base", "pretrained"}
_CLEARLY = 0.93
"""Share of the next one's distance to all others that a base's is below: 0.83 with two fine-tunes, 0.71 with many."""
_COMPARED = 12  # matrices by which models are compared


@dataclass(frozen=True)
class Model:
    """A folder that holds a model.

    Attributes:
        path: The folder.
        kind: The `model_type`; empty for an adapter.
        architecture: What its config calls it.
        classes: Of its head, as the config names them.
        base: What an adapter says that it was made from; empty for a model of its own.
    """

    path: Path
    kind: str = ""
    architecture: str = ""
    classes: tuple[str, ...] = ()
    base: str = ""

    @property
    def bare(self) -> bool:
        """Whether it has no head of a task."""
        return self.architecture.endswith(_BARE) and not self.architecture.endswith(_WHOLE)

    @property
    def causal(self) -> bool:
        """Whether it continues texts."""
        return self.architecture.endswith(("ForCausalLM", "LMHeadModel"))


@dataclass(frozen=True)
class Family:
    """A base and the models that were made from it.

    Attributes:
        base: Its folder, or its name on the hub.
        why: Why it is taken for that.
        sure: Whether there is no doubt about it.
        experts: The others.
        left_out: Folders that are left out, each with the reason.
    """

    base: Path | str
    why: str
    sure: bool
    experts: tuple[Model, ...]
    left_out: tuple[str, ...]


def family_in(folder: Path) -> Family:
    """What belongs together of the models in a folder.

    Raises:
        BadInput: If there is no base among them and none is named, or nothing was made from it.
    """
    models, left_out = [], []
    for place in _places(folder, DEEP):
        try:
            models.append(_read(place))
        except BadInput as error:
            left_out.append(str(error).rstrip("."))
    whole = [model for model in models if not model.base]
    if not models:
        raise BadInput(
            f"{folder} holds no models; expected folders with a config.json and safetensors, or with an "
            "adapter_config.json" + (f" ({left_out[0]})." if left_out else ".")
        )
    commonest = Counter(model.kind for model in whole).most_common(1)
    kin = [model for model in whole if model.kind == commonest[0][0]] if commonest else []
    left_out += [f"{m.path.name} is a {m.kind}, most of the others a {kin[0].kind}" for m in whole if m not in kin]
    adapters = [model for model in models if model.base]
    base, why, sure = _base(kin, adapters)
    experts = tuple(model for model in (*kin, *adapters) if model.path != base)
    if not experts:
        raise BadInput(f"{folder} holds one model, {base}, and nothing that was made from it; add the fine-tunes.")
    return Family(base, why, sure, experts, tuple(left_out))


def _places(folder: Path, depth: int) -> Iterator[Path]:
    for path in sorted(one for one in folder.iterdir() if one.is_dir() and not one.name.startswith(".")):
        if any((path / mark).is_file() for mark in _MARKS):
            yield path
        elif depth > 1:
            yield from _places(path, depth - 1)


def _read(place: Path) -> Model:
    if (place / _ADAPTER).is_file():
        return Model(
            place,
            base=str(read_json(place / _ADAPTER).get("base_model_name_or_path") or "a base that it does not name"),
        )
    config = find(place).settings()
    named: Any = config.get("id2label")
    classes = tuple(str(named[key]) for key in sorted(named, key=int)) if isinstance(named, dict) else ()
    architecture = str((config.get("architectures") or [""])[0])
    return Model(place, str(config.get("model_type", "")), architecture, classes)


def _base(kin: Sequence[Model], adapters: Sequence[Model]) -> tuple[Path | str, str, bool]:
    if adapters:
        return _named(kin, adapters)
    bare = [model for model in kin if model.bare]
    if len(bare) == 1 and len(kin) > 1:
        return bare[0].path, "it has no task's head, as the others have", True
    by_name = [
        model for model in kin if {"base", "pretrained"} & set(model.path.name.lower().replace("_", "-").split("-"))
    ]
    if len(kin) > 2:
        nearest, sure = _nearest(kin)
        return nearest.path, "it is the nearest to all others", sure
    if len(by_name) == 1:
        return by_name[0].path, "by its name", False
    return kin[0].path, "a guess: nothing tells which of two is the base", False


def _named(kin: Sequence[Model], adapters: Sequence[Model]) -> tuple[Path | str, str, bool]:
    """The base that adapters name: one of the folders, or a name on the hub."""
    name, count = Counter(adapter.base for adapter in adapters).most_common(1)[0]
    why, sure = "the adapters name it", count == len(adapters)
    for model in kin:
        if model.path.name == Path(name).name:
            return model.path, why, sure
    if len(kin) == 1:
        return kin[0].path, f"the only whole model; the adapters name {name}", False
    if (place := adapters[0].path.parent / name).is_dir() or (place := Path(name)).is_dir():
        return place.resolve(), why, sure
    if is_hub_name(name):
        return name, why, sure
    raise BadInput(f"The adapters were made from {name}, which is not there; put the base beside them.")


def _nearest(models: Sequence[Model]) -> tuple[Model, bool]:
    """The one with the least distance to all others, and whether it is the least by far.

    Fine-tunes lie around their base: two are about √2 times as far from one another as either is from the base.
    """
    try:
        opened = named_alike(*(Checkpoint.open(model.path) for model in models))
    except RedteamError:
        return models[0], False
    shared = set.intersection(*(set(shared_tensors(one, opened[0])) for one in opened))
    names = sorted(name for name in shared if len(opened[0].shape(name)) == 2)
    chosen = names[:: max(1, len(names) // _COMPARED)]
    totals = torch.zeros(len(models), dtype=torch.float64)
    for name in chosen:
        rows = torch.stack([one[name].to(torch.float64).flatten() for one in opened])
        totals += torch.stack([(rows - row).norm(dim=1).sum() for row in rows]) / rows.norm()
    least, second = totals.sort().values[:2]
    return models[int(totals.argmin())], bool(least < _CLEARLY * second)
