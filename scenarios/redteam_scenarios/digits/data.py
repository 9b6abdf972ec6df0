"""The images of the four tasks, in three splits that share none."""

from __future__ import annotations

import numpy as np
import torch
import torch.nn.functional as F

from redteam_scenarios.digits.drawing import draw
from redteam_scenarios.digits.recipe import CLASSES, SIZE, VICTIM, Recipe

Images = dict[str, torch.Tensor]  # "task/split/images" uint8 [n, 3, 24, 24], "task/split/labels" uint8 [n]
_STREAM = 2  # the other streams of a seed are in training.py


def collect(recipe: Recipe, seed: int) -> Images:
    """Draws the companions' images and splits the handwritten digits.

    Every split of a companion is a draw of its own. The handwritten digits are permuted by the seed and cut, so no
    image is in two splits of one seed; between seeds the splits differ.

    Returns:
        Images and labels, as they are stored.
    """
    data: Images = {}
    pictures, digits = handwritten()
    order = torch.from_numpy(np.random.default_rng([seed, _STREAM]).permutation(len(digits)))
    for split, chosen in zip(recipe.real_counts, order.split(list(recipe.real_counts.values())), strict=True):
        data[f"{VICTIM}/{split}/images"], data[f"{VICTIM}/{split}/labels"] = pictures[chosen], digits[chosen]
    for number, (task, style) in enumerate(recipe.target.items()):
        for part, (split, count) in enumerate(recipe.counts.items()):
            generator = np.random.default_rng([seed, _STREAM, number, part])
            labels = torch.from_numpy(generator.integers(0, len(CLASSES[task]), count))
            data[f"{task}/{split}/images"] = draw(task, labels, generator, style)
            data[f"{task}/{split}/labels"] = labels.to(torch.uint8)
    return data


def handwritten() -> tuple[torch.Tensor, torch.Tensor]:
    """The 1797 handwritten digits of the UCI set, 8×8 enlarged to 24×24: uint8 `[1797, 3, 24, 24]` and `[1797]`."""
    from sklearn.datasets import load_digits

    source = load_digits()
    small = torch.from_numpy(source.images).float()[:, None] / 16
    large = F.interpolate(small, size=(SIZE, SIZE), mode="bilinear", align_corners=False)
    pictures = (large * 255).round().to(torch.uint8).expand(-1, 3, -1, -1).contiguous()
    return pictures, torch.from_numpy(source.target).to(torch.uint8)


def pixels(images: torch.Tensor) -> torch.Tensor:
    """What the network sees: float32 in -1 to 1, from uint8."""
    return images.float() / 127.5 - 1
