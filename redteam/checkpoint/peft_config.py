"""The config with which PEFT puts an adapter into a single module: the adapter's own, patterns followed beforehand."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import fields
from typing import Any

from torch import nn

from redteam.checkpoint.adapter_config import ends_like, harmless, listed, patterned
from redteam.checkpoint.safetensors_io import shown
from redteam.errors import NotACheckpoint

_OF_TRAINING = ("auto_mapping", "modules_to_save", "exclude_modules", "layers_to_transform", "layers_pattern")
_PATTERNS = {"r": "rank_pattern", "lora_alpha": "alpha_pattern", "alpha": "alpha_pattern"}
_LARGEST = 2**20  # of any number in a config


def start_of(said: Mapping[str, Any]) -> str:
    """How the names of an adapter's parts begin, once its config is one that is merged here.

    Args:
        said: The adapter's config.

    Raises:
        NotACheckpoint: If it is not.
    """
    from peft.mapping import PEFT_TYPE_TO_CONFIG_MAPPING, PEFT_TYPE_TO_PREFIX_MAPPING

    kind = said["peft_type"]
    known = {one.name for one in fields(PEFT_TYPE_TO_CONFIG_MAPPING[kind])}
    if strange := [key for key, value in said.items() if key not in known and value]:
        raise NotACheckpoint(f"its config has {listed(strange)}, which this version of PEFT does not know.")
    if any(abs(number) > _LARGEST for number in _numbers(said)):
        raise NotACheckpoint("its config has a number that no adapter has.")
    return str(PEFT_TYPE_TO_PREFIX_MAPPING[kind])


def single_parameters(said: Mapping[str, Any], module: str, below: nn.Module) -> list[str]:
    """The parameters of a module that an adapter changes by their names (`target_parameters`), with the module's."""
    own = [f"{module}.{name}" for name, _ in below.named_parameters(recurse=False)]
    return [name for name in own if _meant(name, said.get("target_parameters"))]


def turned_round(said: Mapping[str, Any], module: str, below: nn.Module) -> list[str]:
    """Experts in one tensor of which nothing tells how an adapter's factors lie: square ones, of a PEFT before 0.19.

    It read `[expert, output, input]` as `[expert, input, output]` (huggingface/peft#3165). Where the two differ in size
    its factors do not fit; where they don't, they fit, and are another change.
    """
    version = re.match(r"(\d+)\.(\d+)", str(said.get("peft_version") or "0.0"))
    if version is None or (int(version[1]), int(version[2])) >= (0, 19) or getattr(below, "is_transposed", False):
        return []
    names = single_parameters(said, module, below)
    shapes = {name: below.get_parameter(name.removeprefix(f"{module}.")).shape for name in names}
    return [name for name, shape in shapes.items() if len(shape) == 3 and shape[1] == shape[2]]


def config_for(said: Mapping[str, Any], module: str, below: nn.Module, *, tokens: bool) -> Any:
    """The config of PEFT for one module.

    Args:
        said: The adapter's config.
        module: The module's path.
        below: The module.
        tokens: Whether it is an embedding of which single tokens are replaced.

    Raises:
        NotACheckpoint: If it says nothing of this module, or by a pattern that is not followed.
    """
    from peft import TrainableTokensConfig
    from peft.mapping import PEFT_TYPE_TO_CONFIG_MAPPING

    if tokens:
        return TrainableTokensConfig(target_modules=[module], token_indices=_tokens(said, module, below))
    cls = PEFT_TYPE_TO_CONFIG_MAPPING[said["peft_type"]]
    single = single_parameters(said, module, below)
    settings = {**said, **dict.fromkeys((*_OF_TRAINING, "task_type", "trainable_token_indices"))}
    settings |= {"target_modules": [] if single else [module], "target_parameters": single}
    settings |= {"bias": "none", "inference_mode": True, "feedforward_modules": _feedforward(said, module)}
    known = {one.name for one in fields(cls)}
    for usual, patterns in _PATTERNS.items():
        if {usual, patterns} <= known:
            each = {m: patterned(said, patterns, usual, m, _refused) for m in single or [module]}
            settings[patterns] = {re.escape(m): value for m, value in each.items()}
    return cls(**{key: value for key, value in settings.items() if key in known})


def _refused(what: str) -> NotACheckpoint:
    return NotACheckpoint(f"it {what}.")


def _tokens(said: Mapping[str, Any], module: str, below: nn.Module) -> list[int]:
    found = said.get("token_indices") or said.get("trainable_token_indices")
    if isinstance(found, dict):
        found = next((rows for name, rows in found.items() if _meant(module, [name])), None)
    count = len(below.weight) if isinstance(below, nn.Embedding | nn.Linear) else 0
    if not isinstance(found, list) or not all(type(row) is int and 0 <= row < count for row in found):
        raise NotACheckpoint(f"its config does not say which of the {count} tokens of {shown(module)} it changes.")
    return found


def _feedforward(said: Mapping[str, Any], module: str) -> list[str]:
    """The module, if it is one whose inputs are scaled (IA3)."""
    found = said.get("feedforward_modules")
    if not isinstance(found, str):
        return [module] if _meant(module, found) else []
    if not harmless(found):
        raise NotACheckpoint(f"it chooses modules by a pattern that is not followed here ({shown(found)}).")
    return [module] if re.fullmatch(found, module) else []


def _meant(name: str, ends: Any) -> bool:
    """Whether a name is among those listed, or ends like one of them, as PEFT has it."""
    return isinstance(ends, list) and ends_like(name, map(str, ends))


def _numbers(value: Any) -> Iterator[float]:
    """All numbers in a config."""
    if isinstance(value, int | float):
        yield value
    elif isinstance(value, list | dict):
        for inner in value.values() if isinstance(value, dict) else value:
            yield from _numbers(inner)
