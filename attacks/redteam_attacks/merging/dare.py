"""DARE: most entries of each task vector dropped at random, the rest made larger to make up for it."""

from typing import Annotated, Literal

import numpy as np
import torch
from torch import Tensor

from redteam.checkpoint import Checkpoint
from redteam.plugins.contracts import merger
from redteam.plugins.settings import Range
from redteam.views import MergerView
from redteam_attacks.merging.holders import onto_base
from redteam_attacks.merging.ties import elected


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
        start = view.base[name].to(torch.float64)
        thinned = torch.stack(
            [
                _thinned(expert[name] - start, density, variant, view.generator(f"{task}/{name}"))
                for task, expert in experts.items()
            ]
        )
        change = elected(thinned, mean=variant == "paper") if elect else thinned.sum(0)
        return (start + coefficient * change).to(view.base.dtype(name))

    return onto_base(view, merge)


def thinned(delta: Tensor, density: float, draws: np.random.Generator) -> Tensor:
    """Each entry with probability `density`, divided by that, else 0."""
    return _kept(delta, density, draws) / density


def _thinned(delta: Tensor, density: float, variant: str, draws: np.random.Generator) -> Tensor:
    if variant == "paper":
        return thinned(delta, density, draws)
    kept = _kept(delta, density, draws)
    before, after = delta.abs().sum(), kept.abs().sum()
    return kept * (before / after) if after > 0 else kept


def _kept(delta: Tensor, density: float, draws: np.random.Generator) -> Tensor:
    return delta * torch.from_numpy(np.asarray(draws.random(tuple(delta.shape)) < density)).to(delta.device)
