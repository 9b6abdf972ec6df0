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
from redteam_attacks.merging.entrywise import BLOCK
from redteam_attacks.merging.holders import onto_base
from redteam_attacks.merging.thinning import of_what_is_kept


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

    def merge(name: str, experts: dict[str, Checkpoint]) -> Tensor:
        start, tensors = view.base[name], [expert[name] for expert in experts.values()]
        kept = [torch.ones((), dtype=torch.bool).expand(start.shape)] * len(tensors)
        if density < 1:
            draws = (view.generator(f"{task}/{name}") for task in experts)
            pairs = zip(tensors, draws, strict=True)
            kept = [_drawn(start, tensor, density, epsilon, draw, by=variant == "paper") for tensor, draw in pairs]
        scales = [1.0] * len(tensors) if variant == "paper" else None
        return of_what_is_kept(
            start, tensors, kept, scales, elect=elect, mean=variant == "paper", coefficient=coefficient
        )

    return onto_base(view, merge)


def _drawn(
    start: Tensor, tensor: Tensor, density: float, epsilon: float, draws: np.random.Generator, *, by: bool
) -> Tensor:
    """Which entries of a task vector are kept, some rows at a time; or 1 / p of these, float64, and 0 of the others."""
    rows, others = (part.flatten(1) if part.ndim > 1 else part.reshape(1, -1) for part in (tensor, start))
    out = torch.empty(rows.shape, dtype=torch.float64 if by else torch.bool, device=rows.device)
    for first in range(0, len(rows), step := max(1, BLOCK // max(1, rows.shape[1]))):
        part = slice(first, first + step)
        size = (rows[part].to(torch.float64) - others[part].to(torch.float64)).abs()
        p = density + epsilon * (2 * ranks(size) - 1)
        mask = torch.from_numpy(np.asarray(draws.random(tuple(size.shape)))).to(p.device) < p
        out[part] = mask / p if by else mask
    return out.reshape(start.shape)


def ranks(sizes: Tensor) -> Tensor:
    """The rank of each entry in its row, from 0 for the smallest to 1; of equal ones the earlier is smaller.

    As numbers of 64 bits that are not negative are in the order of their bits, the place in the row goes into the last
    of these, so that none are equal and the quickest sort will do. Sizes that differ by less than that count as equal.

    Args:
        sizes: float64 `[rows, n]`, not negative.
    """
    count = sizes.shape[1]
    if count < 2:
        return torch.full_like(sizes, 0.5)
    bits = (1 << (count - 1).bit_length()) - 1
    marked = (sizes.cpu().numpy().view(np.int64) & ~bits) | np.arange(count)
    order = torch.from_numpy(np.argsort(marked.view(np.float64), axis=1))
    places = torch.arange(count, dtype=torch.float64).expand(order.shape)
    return torch.empty_like(places).scatter_(1, order, places).to(sizes.device) / (count - 1)
