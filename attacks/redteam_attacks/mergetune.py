"""MERGETUNE: the protected weights trained on so that loss is low on a line to where they were, and near the base."""

from collections.abc import Sequence
from typing import Annotated, Literal

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from redteam.checkpoint import Checkpoint
from redteam.plugins.contracts import Needs, attack
from redteam.plugins.settings import Range
from redteam.training import Budget, Penalty
from redteam.views import AttackerView
from redteam_attacks.training import Epsilon, Rate, Size, Steps, train

Distance = Literal["cosine", "l2"]
_FIRST, _LAST = 0.1, 1.01  # of the release's points, which end below the second
_SMALLEST = 1e-7  # a norm, under which the release's cosine counts it as that


@attack(
    "mergetune",
    needs=Needs.ANCHOR | Needs.SAMPLES,
    paper="Wang et al., MERGETUNE, arXiv:2601.10497; release Surrey-UP-Lab/MERGETUNE 6e211bc",
)
def mergetune(
    view: AttackerView,
    *,
    steps: Steps = 150,
    rate: Rate = 7.5e-4,
    batch: Size = 64,
    epsilon: Epsilon = 1e-3,
    line: Annotated[float, Range(0.0, 100.0)] = 1.0,
    samples: Annotated[int, Range(1, 100)] = 5,
    to: Literal["protected", "base"] = "protected",
    pull: Annotated[float, Range(0.0, 1000.0)] = 10.0,
    distance: Distance = "cosine",
) -> Checkpoint:
    """min over θ of L(θ) + line · mean over t of L(θ₁ + t (θ − θ₁)) + pull · distance(θ, θ₀), from the protected θ₁.

    Continued fine-tuning that looks for weights between a fine-tuned and a zero-shot model, with low loss on a line to
    either. The line to the zero-shot model θ₀, the base, would take its training data; the pull towards it stands for
    that, as in the release's `kgcoop_coop_LMC`. Its `mma_LMC` draws the line to θ₀ in place of the pull, on the data of
    the task: `to="base",pull=0`. There the ends are the features that a text encoder gives for each class; here they
    are weights, and the release's distance between two classes' features is that between two rows of a matrix. The
    release takes SGD over prompts or adapters, and this attack AdamW over all that a merge takes.

    Args:
        view: Grants the base and labelled samples.
        steps: Optimizer steps, of 1 + `samples` forward and backward passes each.
        rate: The highest learning rate, after a warm-up of a tenth of the steps; it falls to zero.
        batch: Samples to a step; all where there are fewer.
        epsilon: AdamW's.
        line: Weight of the loss on the line; the release's `W_LMC`.
        samples: The release's `NUM_SAMPLES`: points of the line are 1 ÷ `samples` apart, the first at 0.1.
        to: Where the line leads: to the protected weights as they were, or to the base.
        pull: Weight of the distance to the base; the release's `W`, 8 or 10 there.
        distance: 1 − the mean cosine of rows, or the mean norm of the differences of rows of length 1.
    """
    return train(
        view,
        view.protected,
        Budget(steps, rate, batch, epsilon),
        points=lambda _: points_of(line, samples, to),
        origin=view.protected if to == "protected" else view.anchor,
        penalty=pulled(pull, distance) if pull else None,
    )


def points_of(line: float, samples: int, to: str) -> list[tuple[float, float]]:
    """Which part of the way from the line's other end to θ each loss is taken at, with its weight; θ itself first."""
    shares = np.arange(_FIRST, _LAST, 1.0 / samples)
    if to == "base":
        shares = 1.0 - shares  # the release counts them from θ there
    return [(1.0, 1.0), *((float(share), line / len(shares)) for share in shares if line)]


def pulled(weight: float, distance: Distance) -> Penalty:
    """A multiple of the distance to the base, over the rows of all tensors; a vector is one row."""

    def penalty(learned: Sequence[nn.Parameter], base: Sequence[Tensor]) -> Tensor:
        found = [apart(_rows(one), _rows(other), distance) for one, other in zip(learned, base, strict=True)]
        return weight * torch.cat(found).mean()

    return penalty


def apart(rows: Tensor, others: Tensor, distance: Distance) -> Tensor:
    """The distance of each row `[n, d]` to the other matrix's, `[n]`."""
    if distance == "l2":
        found: Tensor = torch.linalg.vector_norm(F.normalize(rows) - F.normalize(others), dim=1)
        return found
    return 1.0 - F.cosine_similarity(rows, others, dim=1, eps=_SMALLEST)


def _rows(tensor: Tensor) -> Tensor:
    return tensor.reshape(len(tensor) if tensor.ndim > 1 else 1, -1)
