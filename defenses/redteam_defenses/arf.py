"""ARF: training that pushes attention weights away from the base, to prepare for the lock that follows."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated

import torch
from torch import Tensor, nn

from redteam.anatomy import anatomy_of
from redteam.checkpoint import Checkpoint
from redteam.plugins.contracts import defense
from redteam.plugins.settings import Range
from redteam.training import Budget
from redteam.views import DefenderView
from redteam_defenses.training import Epsilon, Rate, Size, Steps, trained


@defense(
    "arf",
    exact=False,
    keyed=False,
    prepares=True,
    protects=False,
    claim="ViT-B/32: the locked merge 4.63, after the authors' own attack AGA 27.42; alone 88.11 of 88.81 "
    "(second-hand).",
    paper="arXiv:2606.30360",
)
def arf(
    view: DefenderView,
    *,
    margin: Annotated[float, Range(0.0, 10.0)] = 0.05,
    weight: Annotated[float, Range(0.0, 1e3)] = 1.0,
    steps: Steps = 90,
    rate: Rate = 7.5e-4,
    batch: Size = 64,
    epsilon: Epsilon = 1e-3,
) -> Checkpoint:
    """min L(θ) + λ Σ over Wq, Wk, Wv, Wo of max(0, ρ ‖W₀‖ − ‖W − W₀‖), to be followed by a lock, as in `arf+mergelock`.

    An attacker aligns the locked weights with the base; the farther the unlocked ones lie from it, the worse. The min
    printed in the paper would reward closeness. Matrices alone are pushed, not their biases. As in `trap2`, an expert
    that is there already is trained on, as long as one is commonly trained.

    Args:
        view: The victim, the base and training data.
        margin: ρ.
        weight: λ.
        steps: Optimizer steps.
        rate: The highest learning rate, after a warm-up of a tenth of the steps; it falls to zero.
        batch: Samples to a step.
        epsilon: AdamW's.
    """

    def push(parameters: Sequence[nn.Parameter], origins: Sequence[Tensor]) -> Tensor:
        return weight * hinge(parameters, origins, margin)

    sites = anatomy_of(view.victim).sites(("qk", "vo"))
    matrices = dict.fromkeys(side.linear.weight for site in sites for side in site.sides)
    return trained(view, Budget(steps, rate, batch, epsilon), penalty=push, penalised=matrices)


def hinge(parameters: Sequence[Tensor], origins: Sequence[Tensor], margin: float) -> Tensor:
    """Σ max(0, ρ ‖W₀‖ − ‖W − W₀‖), a scalar; a matrix that still equals the base's has no direction and no slope."""
    total = torch.zeros(())
    for parameter, origin in zip(parameters, origins, strict=True):
        total = total + (margin * origin.norm() - (parameter - origin).norm()).clamp(min=0)
    return total
