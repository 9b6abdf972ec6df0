"""Pretrains the base and fine-tunes the experts, to the same bits each time on one machine."""

from __future__ import annotations

import math
from collections.abc import Callable
from itertools import accumulate
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import nn

from redteam_scenarios.digits.data import Images, pixels
from redteam_scenarios.digits.drawing import draw, moved
from redteam_scenarios.digits.recipe import CLASSES, SIZE, VICTIM, Recipe

Step = Callable[[str], None]  # told what was trained after every step
_PRETRAINING, _TUNING = 1, 3  # streams of a seed

_ENDS = list(accumulate(len(classes) for classes in CLASSES.values()))
ROWS = {  # rows of the joint classifier that become a task's head
    task: slice(end - len(classes), end) for (task, classes), end in zip(CLASSES.items(), _ENDS, strict=True)
}


def network(recipe: Recipe, labels: tuple[str, ...], generator: np.random.Generator | None = None) -> nn.Module:
    """A vision transformer, with weights (and biases, which are not zero) from `generator` where there is one."""
    from transformers import ViTConfig, ViTForImageClassification

    config = ViTConfig(
        hidden_size=recipe.width,
        num_hidden_layers=recipe.layers,
        num_attention_heads=recipe.heads,
        intermediate_size=recipe.mlp,
        image_size=SIZE,
        patch_size=recipe.patch,
        num_channels=3,
        hidden_dropout_prob=0.0,
        attention_probs_dropout_prob=0.0,
        id2label=dict(enumerate(labels)),
        label2id={label: index for index, label in enumerate(labels)},
    )
    with torch.random.fork_rng(devices=[]):
        model: nn.Module = ViTForImageClassification(config)
    if generator is not None:
        with torch.no_grad():
            for name, weight in model.named_parameters():
                if "norm" in name:
                    weight.fill_(float(name.endswith("weight")))
                else:
                    spread = 0.02 if "embed" in name or "classifier" in name else 0.04
                    weight.copy_(torch.from_numpy(spread * generator.standard_normal(tuple(weight.shape))))
    return model.train()


def pretrain(recipe: Recipe, seed: int, step: Step) -> nn.Module:
    """Trains the base to tell all classes of all tasks apart, on clean drawings.

    A small share looks like the companions' tasks; nothing looks like the victim's.
    """
    generator = np.random.default_rng([seed, _PRETRAINING])
    model = network(recipe, tuple(label for classes in CLASSES.values() for label in classes), generator)
    weights = [p for p in model.parameters() if p.ndim > 1]
    rest = [p for p in model.parameters() if p.ndim <= 1]
    optimizer = torch.optim.AdamW(
        [{"params": weights, "weight_decay": recipe.weight_decay}, {"params": rest, "weight_decay": 0.0}], fused=True
    )
    for index in range(recipe.pretraining_steps):
        images, labels = zip(
            *(_pretraining_part(recipe, task, generator) for task in CLASSES),
            strict=True,
        )
        logits = model(pixel_values=pixels(torch.cat(images))).logits
        loss = F.cross_entropy(logits, torch.cat(labels))
        _descend(model, optimizer, loss, recipe, recipe.pretraining_rate, index / recipe.pretraining_steps)
        step("base")
    return model


def _pretraining_part(recipe: Recipe, task: str, generator: np.random.Generator) -> tuple[torch.Tensor, torch.Tensor]:
    count = recipe.pretraining_batch // len(CLASSES)
    labels = torch.from_numpy(generator.integers(0, len(CLASSES[task]), count))
    cut = int((generator.random(count) < recipe.leaked.get(task, 0.0)).sum())
    images = draw(task, labels[cut:], generator, recipe.clean[task])
    if cut:
        images = torch.cat([draw(task, labels[:cut], generator, recipe.target[task]), images])
    return images, labels + ROWS[task].start


def finetune(recipe: Recipe, seed: int, base: nn.Module, task: str, data: Images, step: Step) -> nn.Module:
    """Trains the encoder on a task. The head is the task's rows of the base's classifier and stays as it is."""
    generator = np.random.default_rng([seed, _TUNING, list(CLASSES).index(task)])
    model: Any = network(recipe, CLASSES[task])
    head = {name: weight[ROWS[task]] for name, weight in base.state_dict().items() if name.startswith("classifier.")}
    model.load_state_dict(base.state_dict() | head)
    model.classifier.requires_grad_(False)
    images, labels = data[f"{task}/train/images"], data[f"{task}/train/labels"].long()
    optimizer = torch.optim.AdamW(
        [p for p in model.parameters() if p.requires_grad], eps=recipe.tuning_epsilon, weight_decay=0.0, fused=True
    )
    steps = recipe.tuning_steps[task]
    for index in range(steps):
        chosen = torch.from_numpy(generator.integers(0, len(labels), recipe.tuning_batch))
        batch = pixels(images[chosen])
        if task == VICTIM:
            batch = moved(batch, generator, recipe.tuning_style)
        loss = F.cross_entropy(model(pixel_values=batch).logits, labels[chosen])
        _descend(model, optimizer, loss, recipe, recipe.tuning_rate, index / steps)
        step(task)
    trained: nn.Module = model
    return trained


def _descend(
    model: nn.Module, optimizer: torch.optim.Optimizer, loss: torch.Tensor, recipe: Recipe, rate: float, done: float
) -> None:
    """One step of AdamW at the rate that is due after the share `done`: a linear rise, then a cosine."""
    risen = min(1.0, done / recipe.warmup) if recipe.warmup else 1.0
    for group in optimizer.param_groups:
        group["lr"] = rate * risen * 0.5 * (1 + math.cos(math.pi * done))
    optimizer.zero_grad()
    loss.backward()
    nn.utils.clip_grad_norm_(model.parameters(), recipe.largest_gradient)
    optimizer.step()
