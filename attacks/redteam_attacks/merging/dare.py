"""DARE: most entries of each task vector dropped at random, the rest made larger to make up for it."""

import math
from collections.abc import Sequence
from typing import Annotated, Literal

import numpy as np
import torch
from torch import Tensor

from redteam.checkpoint import Checkpoint
from redteam.plugins.contracts import merger
from redteam.plugins.settings import Range
from redteam.views import MergerView
from redteam_attacks.merging.entrywise import BLOCK
from redteam_attacks.merging.holders import onto_base
from redteam_attacks.merging.thinning import of_what_is_kept


@merger(
    "dare",
    tunable="coefficient",
    holds={"order", "still"},
    paper="Yu et al., Language Models are Super Mario, arXiv:2311.03099; the election of signs from arXiv:2306.01708",
)
def dare(
    view: MergerView,
    *,
    variant: Literal["paper", "mergekit"] = "paper",
    elect: bool = False,
    density: Annotated[float, Range(0.01, 1.0)] = 0.5,
    coefficient: Annotated[float, Range(0.05, 2.0)] = 0.3,
) -> Checkpoint:
    """θ₀ + λ Σ r_t m_t∘τ_t with m_t Bernoulli(density), drawn apart for each expert and tensor.

    | variant | r | with `elect` (dare-ties) |
    |---|---|---|
    | `paper`, as peft does it | 1 / density | the mean of the entries whose sign is that of Σ r_t m_t∘τ_t |
    | `mergekit` | ‖τ‖₁ / ‖m∘τ‖₁ for every tensor (its rescale) | their sum (its normalize=false) |

    At density 1 both are task arithmetic, if nothing is elected; at any density `paper` is so on average. What is drawn
    depends on the names of task and tensor alone, so that the order of the experts is irrelevant and a merge without
    one of them drops the same of the others; identical experts are thinned differently.

    Args:
        view: The experts and the base.
        variant: Whose; see above.
        elect: Whether an entry counts only if it has the sign that is elected as by TIES.
        density: The share of entries that are kept, on average. mergekit's examples keep half, the paper a tenth of
            large models.
        coefficient: λ.
    """

    def merge(name: str, experts: dict[str, Checkpoint]) -> Tensor:
        start, tensors = view.base[name], [expert[name] for expert in experts.values()]
        masks = [drawn(start.shape, density, view.generator(f"{task}/{name}")).to(start.device) for task in experts]
        scales = [1 / density] * len(tensors) if variant == "paper" else None
        return of_what_is_kept(
            start, tensors, masks, scales, elect=elect, mean=variant == "paper", coefficient=coefficient
        )

    return onto_base(view, merge)


def thinned(delta: Tensor, density: float, draws: np.random.Generator) -> Tensor:
    """Each entry with probability `density`, divided by that, else 0."""
    return delta * drawn(delta.shape, density, draws).to(delta.device) / density


def drawn(shape: Sequence[int], density: float, draws: np.random.Generator) -> Tensor:
    """Which entries are kept, bool, each with probability `density`; drawn in blocks, as one draw would give them."""
    mask = np.empty(math.prod(shape), bool)
    for start in range(0, len(mask), BLOCK):
        part = mask[start : start + BLOCK]
        np.less(draws.random(len(part)), density, out=part)
    return torch.from_numpy(mask).reshape(tuple(shape))
