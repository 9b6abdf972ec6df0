"""What transformers knows of a config, and what of it is never asked."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

import torch

from redteam.checkpoint.libraries import as_a_sentence, quiet_transformers
from redteam.checkpoint.pooling import POOLING, pooled
from redteam.checkpoint.quantised import said_by
from redteam.checkpoint.safetensors_io import shown
from redteam.checkpoint.zero_shot import ZERO_SHOT, zero_shot_class
from redteam.errors import NotACheckpoint

NETWORK = "redteam_network"
"""Entry of a config that names a network which an installed package builds, by an entry point of the group
`redteam.networks`: a function of a checkpoint and a dtype that gives a module. What is not installed is not run."""

HEAD_ENTRIES = ("id2label", "label2id", "num_labels", "problem_type", POOLING, ZERO_SHOT)
"""Entries of a config that speak of a task's head, and go with its tensors."""
_CODE = {"auto_map", "trust_remote_code", "custom_pipelines"}
_BACKENDS = ("attn_implementation", "experts_implementation")
"""Settings that can name code on a server, which transformers would fetch and run."""
_DEPTH = re.compile(r"(^|_)(n_?layers?|layers|depths?|blocks|stages)$")
_DEEPEST, _MOST_LABELS = 2_000, 10_000_000


def known_network(config: Mapping[str, Any]) -> tuple[Any, Any]:
    """The class and the config of transformers for a network; without what would fetch code or weights.

    Raises:
        NotACheckpoint: If it knows none, the weights are said to be quantised, or a count is more than any network has.
    """
    import transformers

    names = config.get("architectures") or [""]
    name = names[0] if isinstance(names, list) else names
    cls = getattr(transformers, name, None) if isinstance(name, str) else None
    if not (isinstance(cls, type) and issubclass(cls, transformers.PreTrainedModel)):
        code = " and auto_map asks for code of its own, which is never run" if "auto_map" in config else ""
        raise NotACheckpoint(
            f"The config names no network that transformers knows (architectures = {shown(names)}{code}); expected for "
            "example 'ViTForImageClassification'."
        )
    if said_by(config):
        raise NotACheckpoint(
            "The config says that the weights are quantised (quantization_config); expected the model before that."
        )
    _require_plausible(config)
    if POOLING in config:
        cls = pooled(cls, config[POOLING])
    if ZERO_SHOT in config:
        cls = zero_shot_class(cls, config[ZERO_SHOT])
    with as_a_sentence(cls.__name__):
        return cls, transformers.AutoConfig.for_model(**_harmless(dict(config)))


def without_weights(cls: Any, settings: Any) -> Any:
    """A network of transformers on the meta device.

    Args:
        cls: Its class.
        settings: Its config, as an object of transformers.

    Raises:
        NotACheckpoint: If the config does not describe such a network.
    """
    with torch.device("meta"), quiet_transformers(), as_a_sentence(cls.__name__):
        return cls(settings)


def _require_plausible(config: Any) -> None:
    """Refuses counts that no network has, of which transformers would build one after the other.

    Raises:
        NotACheckpoint: If there is one.
    """
    for key, value in config.items() if isinstance(config, Mapping) else ():
        _require_plausible(value)
        most = _MOST_LABELS if key == "num_labels" else _DEEPEST if _DEPTH.search(str(key)) else None
        counts = [n for n in (value if isinstance(value, list) else [value]) if isinstance(n, int)]
        if most is not None and any(count > most for count in counts):
            raise NotACheckpoint(f"The config has {key} = {max(counts)}, more than any network; restore the file.")


def completed(config: Mapping[str, Any]) -> Mapping[str, Any]:
    """A config with transformers' defaults for what it leaves out, where transformers knows the model type."""
    import transformers

    try:
        _require_plausible(config)
        full: Mapping[str, Any] = transformers.AutoConfig.for_model(**_harmless(dict(config))).to_dict()
    except Exception:  # transformers, and what it checks configs with, raise whatever they like
        return config
    return full


def _harmless(settings: Any) -> Any:
    """Settings without those that make transformers fetch code or weights."""
    if isinstance(settings, list):
        return [_harmless(value) for value in settings]
    if not isinstance(settings, dict):
        return settings
    if set(settings) == {"__float__"}:  # how transformers writes what JSON has no number for
        return float(settings["__float__"])
    kept = {k: v for k, v in settings.items() if k not in _CODE and not str(k).lstrip("_").startswith(_BACKENDS)}
    if "use_pretrained_backbone" in kept:
        kept["use_pretrained_backbone"] = False
    return {key: _harmless(value) for key, value in kept.items()}
