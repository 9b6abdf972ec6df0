"""DELLA: entries of task vectors dropped at random, the smaller ones of a row more often."""

from typing import Annotated, Literal

import numpy as np
import torch
from torch import Tensor

from redteam.checkpoint import Checkpoint
from redteam.errors import BadInput
from redteam.plugins.contracts import merger
from redteam.plugins.settings import Range
from redteam.views import MergerView
from redteam_attacks.merging.holders import by_vectors
from redteam_attacks.merging.ties import elected


@merger(
    "della",
    tunable="coefficient",
    holds={"order", "still"},
    paper="Deep et al., DELLA-Merging, arXiv:2406.11617; the election of signs from arXiv:2306.01708",
)
def della(
    view: MergerView,
    *,
    variant: Literal["paper", "mergekit"] = "paper",
    elect: bool = True,
    density: Annotated[float, Range(0.01, 1.0)] = 0.7,
    epsilon: Annotated[float, Range(0.0, 0.5)] = 0.07,
    coefficient: Annotated[float, Range(0.05, 2.0)] = 1.1,
) -> Checkpoint:
    """θ₀ + λ times the elected entries of r_t m_t∘τ_t, m_t Bernoulli(p), p = density − ε + 2ε · rank in the row of |τ|.

    | variant | r | elected entries, or with `elect=false` (della-linear) all, are |
    |---|---|---|
    | `paper` | 1 / p | averaged; summed without election |
    | `mergekit` | ‖τ‖₁ / ‖m∘τ‖₁ for every tensor | summed (its normalize=false) |

    The rank goes from 0 for a row's smallest entry to 1 for its largest. A row is everything under one index of the
    first axis, and a tensor of one axis is one row; mergekit ranks tensors of three axes and more along their second.
    At density 1 nothing is dropped. What is drawn depends on the names of task and tensor alone, as for `dare`.

    The defaults are those of the release's example, three language models of 13 B: a drop rate of 0.3, a window of
    0.14, which is 2 ε, and λ 1.1. mergekit's are a density of 1, ε 0.15 and λ 1.

    Args:
        view: The experts and the base.
        variant: Whose; see above.
        elect: Whether an entry counts only if it has the sign that is elected.
        density: The share of entries that are kept, on average.
        epsilon: How far p goes from it at the ends; density ± ε must lie inside (0, 1).
        coefficient: λ.

    Raises:
        BadInput: If density ± ε reaches 0 or 1.
    """
    if density < 1 and not 0 < density - epsilon <= density + epsilon < 1:
        raise BadInput(
            f"density ± epsilon of della must lie inside (0, 1) and is {density - epsilon:g} to {density + epsilon:g}; "
            "lower epsilon."
        )

    def change(name: str, tasks: tuple[str, ...], deltas: Tensor) -> Tensor:
        if density < 1:
            pairs = zip(tasks, deltas, strict=True)
            deltas = torch.stack(
                [_thinned(d, density, epsilon, variant, view.generator(f"{t}/{name}")) for t, d in pairs]
            )
        return coefficient * (elected(deltas, mean=variant == "paper") if elect else deltas.sum(0))

    return by_vectors(view, change)


def _thinned(delta: Tensor, density: float, epsilon: float, variant: str, draws: np.random.Generator) -> Tensor:
    rows = delta.reshape(delta.shape[0] if delta.ndim > 1 else 1, -1)
    longest = rows.shape[1] - 1
    rank = (
        rows.abs().argsort(dim=1, stable=True).argsort(1).double() / longest if longest else torch.full_like(rows, 0.5)
    )
    p = density + epsilon * (2 * rank - 1)
    mask = torch.from_numpy(np.asarray(draws.random(tuple(rows.shape)))).to(delta.device) < p
    if variant == "paper":
        return (rows * mask / p).reshape(delta.shape)
    kept = rows * mask
    after = kept.abs().sum()
    return (kept * (rows.abs().sum() / after) if after > 0 else kept).reshape(delta.shape)
