"""MergeGuard: a fine-tuning that shrinks weights, then the most telling part of the task vector taken back."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Annotated

import torch
from torch import Tensor, nn

from redteam.anatomy import KINDS, anatomy_of
from redteam.checkpoint import Checkpoint, shared_tensors
from redteam.plugins.contracts import defense
from redteam.plugins.settings import Range
from redteam.training import Budget, in_pieces
from redteam.views import DefenderView
from redteam_defenses.training import Epsilon, Rate, Share, Size, Steps, trained

_JUDGED = 512  # samples on which layers are ranked


@defense(
    "mergeguard",
    exact=False,
    keyed=False,
    weakened={"decay": 0.0},
    claim="Merged accuracy falls by up to 90 % with under 1.5 % lost alone (paper); ViT-L-14 merged RESISC45 86.6 → "
    "56.5, GTSRB 86.7 → 12.9, MNIST 98.9 → 11.4; Gemma2 GSM8K 69.6 → 1.5 (second-hand).",
    paper="arXiv:2511.11851",
)
def mergeguard(
    view: DefenderView,
    *,
    spread: bool = True,
    mask: bool = True,
    decay: Annotated[float, Range(0.0, 10.0)] = 0.01,
    beta: Annotated[float, Range(0.0, 10.0)] = 1.0,
    keep_layers: Share = 0.1,
    keep_parameters: Share = 0.9,
    steps: Steps = 90,
    rate: Rate = 7.5e-4,
    batch: Size = 64,
    epsilon: Epsilon = 1e-3,
) -> Checkpoint:
    """θ′ = argmin L + 0.01 Σ ‖θ_l‖², then θ′ − β M∘τ′ with τ′ = θ′ − θ₀ and M a mask of zeros and ones.

    M is 0 on the layers without whose task vector the loss rises most, k′ = 10 % of them, and elsewhere 1 on the most
    important k = 10 % of a layer's parameters. The sources leave open: what a layer is (here every linear map of the
    blocks, so that embeddings, norms and heads stay out in vision models, too), what the layers are ranked by on small
    data (the loss, finer than accuracy), and what makes a parameter important (here |τ′|, since the mask takes τ′
    back). As in `trap2`, an expert that is there already is trained on, as long as one is commonly trained.

    Args:
        view: The victim, the base and training data.
        spread: Whether to do the first stage, the training.
        mask: Whether to do the second.
        decay: The coefficient of Σ ‖θ_l‖² over all that is trained.
        beta: β: 1 sets what is masked to the base, 2 turns it round.
        keep_layers: k′, the share of layers that are left alone, rounded up.
        keep_parameters: 1 − k, the share of each other layer that is left alone.
        steps: Optimizer steps.
        rate: The highest learning rate, after a warm-up of a tenth of the steps; it falls to zero.
        batch: Samples to a step.
        epsilon: AdamW's.
    """

    def size(parameters: Sequence[nn.Parameter], _: Sequence[Tensor]) -> Tensor:
        return decay * torch.stack([parameter.square().sum() for parameter in parameters]).sum()

    checkpoint = view.victim
    layers = _layers(checkpoint, view.base)
    if spread:
        checkpoint = trained(view, Budget(steps, rate, batch, epsilon), penalty=size)
    if not mask:
        return checkpoint
    critical = _critical(view, checkpoint, layers, beta, keep_layers)
    masked = {
        name: guarded(checkpoint[name], view.base[name], beta, keep_parameters)
        for layer, names in layers.items()
        if layer not in critical
        for name in names
    }
    return checkpoint.replace(masked)


def guarded(weight: Tensor, start: Tensor, beta: float, keep: float) -> Tensor:
    """`θ − β M∘τ` in the weight's dtype, with M = 1 on all but the share `keep` of smallest |τ|; ties in order."""
    away = weight.to(torch.float64) - start.to(torch.float64)
    count = away.numel() - round(keep * away.numel())
    chosen = torch.zeros(away.numel(), dtype=torch.bool, device=away.device)
    chosen[away.abs().flatten().argsort(descending=True, stable=True)[:count]] = True
    moved = (start.to(torch.float64) + (1 - beta) * away).to(weight.dtype)
    return torch.where(chosen.view_as(away), moved, weight)


def _layers(victim: Checkpoint, base: Checkpoint) -> dict[str, list[str]]:
    """The linear maps of the blocks: name → its tensors that the base has, too."""
    layers: dict[str, list[str]] = {}
    shared = set(shared_tensors(victim, base))
    for site in anatomy_of(victim).sites(KINDS):
        for side in site.sides:
            for name in side.linear.names:
                if name in shared and name not in layers.setdefault(side.linear.weight, []):
                    layers[side.linear.weight].append(name)
    return layers


def _critical(
    view: DefenderView, checkpoint: Checkpoint, layers: dict[str, list[str]], beta: float, share: float
) -> set[str]:
    """The layers whose task vector the loss can least do without."""
    count = math.ceil(share * len(layers))
    if not count:
        return set()
    fixed = view.seeded(0)
    batches = in_pieces(next(fixed.batches(_JUDGED, "layers")), fixed.generator("layers, in batches"))
    rise = {}
    for layer, names in layers.items():
        without = {name: guarded(checkpoint[name], view.base[name], beta, 0.0) for name in names}
        module = checkpoint.replace(without).module(torch.float32)
        with torch.inference_mode():
            rise[layer] = sum(len(batch[1]) * float(view.loss(module, batch)) for batch in batches)
    return set(sorted(rise, key=rise.__getitem__, reverse=True)[:count])
