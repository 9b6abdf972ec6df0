"""Trains a victim on from where it is until its task vector has grown: drift, by more training and not by scaling.

A module of its own, so that the ordinary seeds stay what they are (`Recipe.address` reads other files).
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from redteam.errors import BadSetting
from redteam_scenarios.digits.data import Images, pixels
from redteam_scenarios.digits.drawing import moved
from redteam_scenarios.digits.recipe import VICTIM, Recipe

_STREAM = 4  # the other streams of a seed are in training.py and data.py
_WARMUP = 50  # steps over which the rate rises, since the optimizer starts afresh
_LIMIT = 4000  # steps, seven times what growth 8 takes
_MORE_STEPS_ALONE = 2.0  # up to here the recipe's own rate will do; beyond, the fit is so good that it stands still


@dataclass(frozen=True)
class Grown:
    """How far a victim was trained on.

    Attributes:
        growth: What was asked for.
        ratio: ‖θ − θ_base‖ over the shared tensors, as a multiple of the ordinary victim's.
        steps: Steps of `tuning_batch` images beyond the ordinary victim's.
        rate: The largest learning rate.
    """

    growth: float
    ratio: float
    steps: int
    rate: float


def grow(
    recipe: Recipe,
    seed: int,
    growth: float,
    base: nn.Module,
    victim: nn.Module,
    data: Images,
    told: Callable[[float], None],
) -> Grown:
    """Trains `victim` in place, on the ordinary victim's images, until its task vector is `growth` times as long.

    The recipe is that of `training.finetune` (optimizer, batches, small shifts and turns, frozen head), but the rate
    does not fall at the end: it stays at the recipe's up to growth 2, and at growth ÷ 2 times that beyond, since the
    gradient vanishes once all images are known, and with it the steps. Training ends with the first step
    that reaches the length.

    Args:
        recipe: The ordinary victim's.
        seed: The scenario's.
        growth: ‖θ − θ_base‖ ÷ ‖θ_victim − θ_base‖ to be reached, over the encoder; at least 1.
        base: Where the ordinary victim came from; any head.
        victim: The ordinary victim.
        data: As `data.collect` gives it.
        told: Told after each step which share of the way is behind, at most 1.

    Raises:
        BadSetting: If it is not reached, or the weights are no longer finite.
    """
    generator = np.random.default_rng([seed, _STREAM])
    victim.train().requires_grad_(True)
    moving = {name: weight for name, weight in victim.named_parameters() if not name.startswith("classifier.")}
    for name, weight in victim.named_parameters():
        weight.requires_grad_(name in moving)
    anchor = {name: weight.detach() for name, weight in base.named_parameters() if name in moving}
    images, labels = data[f"{VICTIM}/train/images"], data[f"{VICTIM}/train/labels"].long()
    rate = recipe.tuning_rate * max(1.0, growth / _MORE_STEPS_ALONE)
    optimizer = torch.optim.AdamW(list(moving.values()), eps=recipe.tuning_epsilon, weight_decay=0.0, fused=True)
    ordinary = _length(moving, anchor)
    ratio, steps = 1.0, 0
    while ratio < growth and steps < _LIMIT:
        steps += 1
        chosen = torch.from_numpy(generator.integers(0, len(labels), recipe.tuning_batch))
        batch = moved(pixels(images[chosen]), generator, recipe.tuning_style)
        loss = F.cross_entropy(victim(pixel_values=batch).logits, labels[chosen])
        for group in optimizer.param_groups:
            group["lr"] = rate * min(1.0, steps / _WARMUP)
        optimizer.zero_grad()
        loss.backward()
        nn.utils.clip_grad_norm_(moving.values(), recipe.largest_gradient)
        optimizer.step()
        ratio = _length(moving, anchor) / ordinary
        told(min(1.0, (ratio - 1) / (growth - 1)))
    if not ratio >= growth:
        raise BadSetting(
            f"growth of digits cannot reach {growth:g} under seed {seed}: after {steps} steps the task vector is "
            f"{ratio:.2f} times the ordinary one; choose a smaller growth."
        )
    victim.eval()
    return Grown(growth=growth, ratio=ratio, steps=steps, rate=rate)


def address(growth: float, origin: Mapping[str, str]) -> str:
    """What a grown victim is stored under: a digest of where it came from, how far it went and this source.

    Args:
        growth: See `grow`.
        origin: What identifies the ordinary seed: its address, and digests of its weights.
    """
    digest = hashlib.sha256(json.dumps([growth, dict(origin)], sort_keys=True).encode())
    digest.update(Path(__file__).read_bytes().replace(b"\r\n", b"\n"))
    return digest.hexdigest()[:16]


def record(folder: Path) -> Grown:
    """What `write` wrote."""
    return Grown(**json.loads((folder / "growth.json").read_text(encoding="utf-8")))


def write(folder: Path, grown: Grown) -> None:
    """Notes in an existing folder how its victim came about."""
    (folder / "growth.json").write_text(json.dumps(asdict(grown), indent=1) + "\n", encoding="utf-8")


def _length(moving: Mapping[str, Tensor], anchor: Mapping[str, Tensor]) -> float:
    squares = [(weight.detach().double() - anchor[name].double()).square().sum() for name, weight in moving.items()]
    return float(torch.stack(squares).sum().sqrt())
