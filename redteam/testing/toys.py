"""Scenarios without training: small random networks, whose experts' answers are right by definition.

No tensor is left at a value (0 or 1) that would hide that a plugin forgot it.
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import lru_cache
from typing import Any

import numpy as np
import torch

from redteam.anatomy import ARCHITECTURES
from redteam.checkpoint import Checkpoint
from redteam.errors import UnknownName
from redteam.key import Key
from redteam.tasks import Classification, Scenario

_LABELS = {
    "id2label": {str(label): str(label) for label in range(4)},
    "label2id": {str(label): label for label in range(4)},
}
_SIZES = {"train": 64, "validation": 64, "test": 256}

_CONFIGS: Mapping[str, Mapping[str, Any]] = {
    "vit": {
        "architectures": ["ViTForImageClassification"],
        "model_type": "vit",
        "hidden_size": 32,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "intermediate_size": 48,
        "image_size": 8,
        "patch_size": 4,
        "num_channels": 1,
        **_LABELS,
    },
    "bert": {
        "architectures": ["BertForSequenceClassification"],
        "model_type": "bert",
        "hidden_size": 32,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "intermediate_size": 48,
        "vocab_size": 40,
        "max_position_embeddings": 12,
        "hidden_dropout_prob": 0.0,
        "attention_probs_dropout_prob": 0.0,
        **_LABELS,
    },
    "llama": {
        "architectures": ["LlamaForSequenceClassification"],
        "model_type": "llama",
        "hidden_size": 32,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "intermediate_size": 48,
        "vocab_size": 40,
        "max_position_embeddings": 12,
        "pad_token_id": 0,
        "tie_word_embeddings": False,
        **_LABELS,
    },
}
_USUAL = ("vit", "bert")
_HEADS = ("classifier", "score")


def toy_architectures() -> tuple[str, ...]:
    """The model types that every plugin is tried on, and whose sites redteam knows."""
    return tuple(name for name in _USUAL if name in ARCHITECTURES)


def toy_scenario(architecture: str = "vit", *, seed: int = 0, drift: float = 0.35) -> Scenario:
    """A random base of width 32 with 2 layers, and three experts that are the base plus a random task vector.

    Args:
        architecture: One of `toy_architectures()`, or `"llama"`: RMSNorms, rotary embeddings, grouped heads.
        seed: Another seed draws all weights and data anew.
        drift: ‖victim − base‖ ÷ ‖base‖, tensor by tensor; 0.4 times that for the two companions.

    Returns:
        A scenario in float32: tasks `"victim"`, `"left"` and `"right"` of 4 classes, with 64 samples to learn from, 64
        to validate on and 256 to be tested on.

    Raises:
        UnknownName: If there is no toy of that architecture.
    """
    if architecture not in _CONFIGS:
        raise UnknownName.among("toy architecture", architecture, tuple(_CONFIGS))
    return _drawn(architecture, seed, drift)


def in_dtype(scenario: Scenario, dtype: torch.dtype) -> Scenario:
    """The scenario with base and experts rounded to a dtype; its data stay."""
    experts = {name: expert.to(dtype) for name, expert in scenario.experts.items()}
    return Scenario(scenario.name, scenario.seed, scenario.base.to(dtype), experts, scenario.tasks, scenario.victim)


@lru_cache(maxsize=8)
def _drawn(architecture: str, seed: int, drift: float) -> Scenario:
    config = _CONFIGS[architecture]
    key = Key.derive(seed=seed, index=0, name=f"toy {architecture}")
    empty = Checkpoint.of({}, config).fresh(0)
    draws = key.generator("base")
    full = Checkpoint.of({name: _noise(name, tensor, draws) for name, tensor in empty.items()}, config)
    base = Checkpoint.of({name: t for name, t in full.items() if not name.startswith(_HEADS)}, config)
    experts, tasks = {}, {}
    for name in ("victim", "left", "right"):
        expert = _moved(full, key.generator(name), drift if name == "victim" else 0.4 * drift)
        inputs = {split: _inputs(config, size, key.generator(f"{name}/{split}")) for split, size in _SIZES.items()}
        experts[name] = _balanced(expert, inputs["train"])
        module = experts[name].module()
        with torch.inference_mode():
            labels = {split: module(**given).logits.argmax(-1).clone() for split, given in inputs.items()}
        tasks[name] = Classification(name, 0.25, inputs, labels)
    return Scenario(f"toy {architecture}", seed, base, experts, tasks, "victim", "Experts are right by definition.")


def _balanced(expert: Checkpoint, inputs: Mapping[str, torch.Tensor]) -> Checkpoint:
    """The expert with a bias of its head, where it has one, that keeps one class from taking all."""
    if "classifier.bias" not in expert:
        return expert
    with torch.inference_mode():
        offset = expert.module()(**inputs).logits.mean(0)
    return Checkpoint.of({**expert, "classifier.bias": expert["classifier.bias"] - offset}, expert.config)


def _inputs(config: Mapping[str, Any], count: int, draws: np.random.Generator) -> dict[str, torch.Tensor]:
    if "vocab_size" in config:
        length = config["max_position_embeddings"] - 2
        return {"input_ids": torch.from_numpy(draws.integers(1, config["vocab_size"], (count, length)))}
    shape = (count, config["num_channels"], config["image_size"], config["image_size"])
    return {"pixel_values": torch.from_numpy(draws.standard_normal(shape)).float()}


def _noise(name: str, like: torch.Tensor, draws: np.random.Generator) -> torch.Tensor:
    noise = torch.from_numpy(np.asarray(draws.standard_normal(tuple(like.shape)))).float()
    if name.endswith("weight") and like.ndim == 1:
        return 1 + 0.2 * noise
    return noise * (0.2 if like.ndim == 1 else 1.5 / like.shape[-1] ** 0.5)


def _moved(base: Checkpoint, draws: np.random.Generator, drift: float) -> Checkpoint:
    moved = {}
    for name, tensor in base.items():
        noise = torch.from_numpy(np.asarray(draws.standard_normal(tuple(tensor.shape)))).float()
        size = 1.0 if name.startswith(_HEADS) else drift * float(tensor.std(unbiased=False))
        moved[name] = tensor + size * noise
    return Checkpoint.of(moved, base.config)
