"""Trap²: trained so that the task vector works at its own length, and at no other."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated

import numpy as np

from redteam.checkpoint import Checkpoint
from redteam.errors import BadSetting
from redteam.plugins.contracts import defense
from redteam.plugins.settings import Range
from redteam.training import Budget
from redteam.views import DefenderView
from redteam_defenses.training import Epsilon, Rate, Share, Size, Steps, trained


@defense(
    "trap2",
    exact=False,
    keyed=False,
    weakened={"scales": (0.05, 1.0)},
    claim="Alone 88.13 against 88.12 when fine-tuned plainly (ViT-B/32); its README concedes distillation, fine-tuning "
    "and RegMean (code).",
    paper="arXiv:2601.21898",
)
def trap2(
    view: DefenderView,
    *,
    weight: Annotated[float, Range(0.0, 10.0)] = 0.005,
    scales: Annotated[tuple[float, float], Range(0.0, 10.0, rising=True)] = (0.05, 2.0),
    spared: Annotated[tuple[float, float], Range(0.0, 10.0, rising=True)] = (0.95, 1.05),
    clip: Annotated[float, Range(1e-3, 1e3, log=True)] = 1.0,
    steps: Steps = 90,
    rate: Rate = 7.5e-4,
    batch: Size = 64,
    epsilon: Epsilon = 1e-3,
    warmup: Share = 0.1,
) -> Checkpoint:
    """min over Δ of L(θ₀ + Δ) − λ E_s [L(θ₀ + s Δ)/s], s uniform in [0.05, 2] without (0.95, 1.05), one s a step.

    The release's λ for full fine-tuning, range and clipping. It trains in place of fine-tuning; here the expert is
    there already and is trained on, with as many steps and the rate that such an expert is commonly made with. Its
    500 steps of warm-up belong to longer training, so that the warm-up is a share of the steps.

    Args:
        view: The victim, the base and training data.
        weight: λ.
        scales: Between which s is drawn.
        spared: Between which it is not.
        clip: The largest norm of the gradient.
        steps: Optimizer steps.
        rate: The highest learning rate; it falls to zero along a cosine.
        batch: Samples to a step.
        epsilon: AdamW's.
        warmup: Share of the steps in which the rate rises.
    """
    parts = [(scales[0], min(spared[0], scales[1])), (max(spared[1], scales[0]), scales[1])]
    parts = [(low, high) for low, high in parts if low < high]
    if scales[0] <= 0 or not parts:
        raise BadSetting(f"No s is left in {list(scales)} without {list(spared)}; expected a range above 0 beyond it.")

    def points(draws: np.random.Generator) -> Sequence[tuple[float, float]]:
        left = float(draws.random()) * sum(high - low for low, high in parts)
        for low, high in parts:
            if left <= high - low:
                break
            left -= high - low
        s = low + min(left, high - low)
        return ((1.0, 1.0), (s, -weight / s))

    return trained(view, Budget(steps, rate, batch, epsilon, warmup, clip), points=points)
