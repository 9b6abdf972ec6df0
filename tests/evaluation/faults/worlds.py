"""A scenario that is small enough for hundreds of runs, and some that cannot work."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch

from redteam.checkpoint import Checkpoint
from redteam.key import Key
from redteam.plugins.contracts import scenario
from redteam.tasks import Classification, Scenario

CONFIG: dict[str, Any] = {
    "architectures": ["ViTForImageClassification"],
    "model_type": "vit",
    "image_size": 4,
    "patch_size": 2,
    "num_channels": 1,
    "hidden_size": 16,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "intermediate_size": 32,
    "id2label": {str(label): str(label) for label in range(4)},
    "label2id": {str(label): label for label in range(4)},
}
TASKS = ("victim", "left", "right")
SIZES = {"train": 900, "validation": 100, "test": 600}
POOL = 4500
ATTENTION = 1.2
"""How far fine-tuning moves attention, over the rest: so that neither alone carries the skill."""


@scenario("world")
def world(*, seed: int = 0, drift: float = 0.4, test: int = SIZES["test"], same: bool = False) -> Scenario:
    """A random network, and experts that are it plus a random task vector in its blocks; their answers are right.

    Args:
        seed: Of everything random.
        drift: How long the victim's task vector is, as a share of each weight's deviation; others' are half as long.
        test: How many test items a task has.
        same: Whether every seed has the same models and data.
    """
    return _made(0 if same else seed, seed, drift, test)


@scenario("mute")
def mute(*, seed: int = 0) -> Scenario:
    """Networks that give hidden states and no logits."""
    made = _made(seed, seed, 0.4, 60)
    config = {**CONFIG, "architectures": ["ViTModel"]}

    def renamed(checkpoint: Checkpoint) -> Checkpoint:
        kept = {n.removeprefix("vit."): t for n, t in checkpoint.items() if not n.startswith("classifier")}
        dense = {"pooler.dense.weight": torch.eye(16), "pooler.dense.bias": torch.zeros(16)}
        return Checkpoint.of(kept | dense, config)

    experts = {name: renamed(expert) for name, expert in made.experts.items()}
    return Scenario("mute", seed, renamed(made.base), experts, made.tasks, "victim", "No logits.")


@scenario("holed")
def holed(*, seed: int = 0) -> Scenario:
    """One number of a companion is none."""
    made = _made(seed, seed, 0.4, 60)
    name = "vit.encoder.layer.0.attention.attention.key.bias"
    bias = made.experts["left"][name].clone()
    bias[0] = torch.nan
    experts = {**made.experts, "left": made.experts["left"].replace({name: bias})}
    return Scenario("holed", seed, made.base, experts, made.tasks, "victim", "NaN in a companion.")


KEPT: dict[int, Scenario] = {}
"""What was made, where everybody can find it."""


def _made(stream: int, seed: int, drift: float, test: int) -> Scenario:
    key = Key.derive(seed=stream, index=0, name="world")
    base = _noisy(key.generator("base"))
    experts, tasks = {}, {}
    for name in TASKS:
        expert = _moved(base, key.generator(name), drift if name == "victim" else drift / 2)
        inputs = {
            "pixel_values": torch.from_numpy(key.generator(f"{name}/inputs").normal(size=(POOL, 1, 4, 4))).float()
        }
        with torch.inference_mode():
            offset = expert.module()(**inputs).logits.mean(0)
            experts[name] = expert.replace({"classifier.bias": expert["classifier.bias"] - offset})
            experts[name] = Checkpoint.of(dict(experts[name]), CONFIG)
            tasks[name] = _task(name, experts[name], base, inputs, {**SIZES, "test": test})
    bare = Checkpoint.of({n: t for n, t in base.items() if not n.startswith("classifier")}, CONFIG)
    KEPT[seed] = Scenario("world", seed, bare, experts, tasks, "victim", "An expert's answers are right by definition.")
    return KEPT[seed]


def _task(
    name: str, expert: Checkpoint, base: Checkpoint, inputs: dict[str, torch.Tensor], sizes: dict[str, int]
) -> Classification:
    """Inputs that half the way from the base decides as the expert does, more than the base does."""
    labels = expert.module()(**inputs).logits.argmax(-1)
    halfway, start = (_margins(_between(base, expert, share), inputs, labels) for share in (0.5, 0.0))
    kept = (halfway - 0.4 * start).argsort(descending=True)[: sum(SIZES.values())].sort().values
    parts = dict(zip(sizes, torch.split(kept[: sum(sizes.values())], list(sizes.values())), strict=True))
    return Classification(
        name,
        0.25,
        {split: {key: value[chosen] for key, value in inputs.items()} for split, chosen in parts.items()},
        {split: labels[chosen] for split, chosen in parts.items()},
    )


def _between(base: Checkpoint, expert: Checkpoint, share: float) -> Checkpoint:
    return expert.replace({n: torch.lerp(base[n], expert[n], share) for n in expert if not n.startswith("classifier")})


def _margins(network: Checkpoint, inputs: dict[str, torch.Tensor], labels: torch.Tensor) -> torch.Tensor:
    logits = network.module()(**inputs).logits
    own = logits.gather(1, labels[:, None])
    return own[:, 0] - logits.scatter(1, labels[:, None], -torch.inf).max(1).values


def _noisy(generator: np.random.Generator) -> Checkpoint:
    drawn = Checkpoint.of({}, CONFIG).fresh(0)
    return Checkpoint.of({name: _draw(name, tensor, generator) for name, tensor in drawn.items()}, CONFIG)


def _draw(name: str, like: torch.Tensor, generator: np.random.Generator) -> torch.Tensor:
    noise = torch.from_numpy(generator.normal(size=tuple(like.shape))).float()
    if name.endswith("weight") and like.ndim == 1:
        return 1 + 0.2 * noise
    return noise * (0.2 if like.ndim == 1 else 1.5 / like.shape[-1] ** 0.5)


def _moved(base: Checkpoint, generator: np.random.Generator, drift: float) -> Checkpoint:
    """The base with noise on the linear maps of its blocks, and a head of its own."""
    moved = {}
    for name, tensor in base.items():
        noise = torch.from_numpy(generator.normal(size=tuple(tensor.shape))).float()
        if name.startswith("classifier"):
            moved[name] = tensor + noise
        elif ".layer" in name and "norm" not in name:
            share = drift * (ATTENTION if ".attention." in name else 1.0)
            moved[name] = tensor + share * tensor.std(unbiased=False).nan_to_num(0) * noise
    return base.replace(moved)
