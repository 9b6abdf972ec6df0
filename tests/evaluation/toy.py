"""A scenario without training, for tests of the machinery: an expert's answers are, by definition, right."""

from __future__ import annotations

from dataclasses import replace
from typing import Any, Literal

import numpy as np
import torch

from redteam.checkpoint import Checkpoint
from redteam.key import Key
from redteam.plugins.contracts import scenario
from redteam.tasks import Classification, Scenario

_SHARED = {
    "hidden_size": 32,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "intermediate_size": 64,
    "id2label": {str(label): str(label) for label in range(4)},
    "label2id": {str(label): label for label in range(4)},
}
CONFIGS: dict[str, dict[str, Any]] = {
    "vit": {
        "architectures": ["ViTForImageClassification"],
        "model_type": "vit",
        "image_size": 8,
        "patch_size": 4,
        "num_channels": 1,
        **_SHARED,
    },
    "bert": {
        "architectures": ["BertForSequenceClassification"],
        "model_type": "bert",
        "vocab_size": 40,
        "max_position_embeddings": 8,
        "type_vocab_size": 1,
        **_SHARED,
    },
}
SIZES = {"train": 64, "validation": 100, "test": 500}


@scenario("toy")
def toy(
    *, seed: int = 0, drift: float = 0.35, share: float = 0.4, architecture: Literal["vit", "bert"] = "vit"
) -> Scenario:
    """A random network, and experts that are the base plus a random task vector."""
    config = CONFIGS[architecture]
    key = Key.derive(seed=seed, index=0, name="toy")
    base = _noisy(Checkpoint.of({}, config), key.generator("base"))
    bare = Checkpoint.of({n: t for n, t in base.items() if not n.startswith("classifier")}, config)
    experts, tasks = {}, {}
    for name in ("victim", "left", "right"):
        expert = _moved(base, key.generator(name), drift if name == "victim" else share * drift)
        inputs = {split: _inputs(architecture, key.generator(f"{name}/{split}"), size) for split, size in SIZES.items()}
        with torch.inference_mode():
            offset = expert.module()(**inputs["train"]).logits.mean(0)
        expert = expert.replace({"classifier.bias": expert["classifier.bias"] - offset})
        module = expert.module()
        with torch.inference_mode():
            labels = {split: module(**x).logits.argmax(-1) for split, x in inputs.items()}
        experts[name] = Checkpoint.of(dict(expert), config)
        tasks[name] = Classification(name, 0.25, inputs, labels)
    return Scenario("toy", seed, bare, experts, tasks, "victim", "An expert's answers are right by definition.")


def victims(*, seed: int = 0, victim: str = "victim", drift: float = 0.3, dull: str = "") -> tuple[str, ...]:
    """All of them."""
    return ("victim", "left", "right") if victim == "each" else ()


@scenario("turning", victims=victims)
def turning(*, seed: int = 0, victim: str = "victim", drift: float = 0.3, dull: str = "") -> Scenario:
    """Toys of which any task may be the victim.

    Args:
        seed: Of the weights.
        victim: Which task it is, or `each` of them in turn.
        drift: As of the toy.
        dull: A task whose expert is the base, so that it adds nothing to a merge.
    """
    made = toy(seed=seed, drift=drift, share=1.0)
    bored = {dull: made.experts[dull].replace(dict(made.base))} if dull else {}
    return replace(made, name="turning", victim=victim, experts={**made.experts, **bored})


@scenario("apart")
def apart(*, seed: int = 0) -> Scenario:
    """Texts of each task have words of their own, and experts other embeddings for these: a merge keeps everybody.

    In the other toys experts disturb each other so much that a merge is hardly worth more than one of them.
    """
    config, words = CONFIGS["bert"], "bert.embeddings.word_embeddings.weight"
    key = Key.derive(seed=seed, index=0, name="apart")
    base = _noisy(Checkpoint.of({}, config), key.generator("base"))
    experts, tasks = {}, {}
    for place, name in enumerate(("victim", "left", "right")):
        draws = key.generator(name)
        table, own = base[words].clone(), slice(13 * place, 13 * place + 13)
        table[own] = 3 * torch.from_numpy(draws.normal(size=tuple(table[own].shape))).float()
        head = torch.from_numpy(draws.normal(size=tuple(base["classifier.weight"].shape))).float()
        expert = base.replace({words: table, "classifier.weight": head})
        inputs = {
            split: {"input_ids": torch.from_numpy(draws.integers(own.start, own.stop, (size, 8)))}
            for split, size in SIZES.items()
        }
        with torch.inference_mode():
            offset = expert.module()(**inputs["train"]).logits.mean(0)
            experts[name] = expert.replace({"classifier.bias": expert["classifier.bias"] - offset})
            module = experts[name].module()
            labels = {split: module(**x).logits.argmax(-1) for split, x in inputs.items()}
        tasks[name] = Classification(name, 0.25, inputs, labels)
    bare = Checkpoint.of({n: t for n, t in base.items() if not n.startswith("classifier")}, config)
    return Scenario("apart", seed, bare, experts, tasks, "victim", "Every expert has words of its own.")


@scenario("pair")
def pair(*, seed: int = 0) -> Scenario:
    """A toy with one companion."""
    made = toy(seed=seed, share=1.0)
    two = ("victim", "left")
    kept = {name: made.experts[name] for name in two}, {name: made.tasks[name] for name in two}
    return replace(made, name="pair", experts=kept[0], tasks=kept[1])


def _inputs(architecture: str, generator: np.random.Generator, size: int) -> dict[str, torch.Tensor]:
    if architecture == "vit":
        return {"pixel_values": torch.from_numpy(generator.normal(size=(size, 1, 8, 8))).float()}
    return {"input_ids": torch.from_numpy(generator.integers(0, 40, (size, 8)))}


def _noisy(empty: Checkpoint, generator: np.random.Generator) -> Checkpoint:
    drawn = empty.fresh(0)
    return Checkpoint.of({name: _draw(name, tensor, generator) for name, tensor in drawn.items()}, empty.config)


def _draw(name: str, like: torch.Tensor, generator: np.random.Generator) -> torch.Tensor:
    noise = torch.from_numpy(generator.normal(size=tuple(like.shape))).float()
    if name.endswith("weight") and like.ndim == 1:
        return 1 + 0.2 * noise
    return noise * (0.2 if like.ndim == 1 else 1.5 / like.shape[-1] ** 0.5)


def _moved(base: Checkpoint, generator: np.random.Generator, drift: float) -> Checkpoint:
    moved = {}
    for name, tensor in base.items():
        noise = torch.from_numpy(generator.normal(size=tuple(tensor.shape))).float()
        step = noise if name.startswith("classifier") else drift * tensor.std(unbiased=False).nan_to_num(0) * noise
        moved[name] = tensor + step
    return Checkpoint.of(moved, base.config)
