"""Breadcrumbs: the largest and the smallest entries of each task vector are left out."""

from typing import Annotated, Literal

from torch import Tensor

from redteam.checkpoint import Checkpoint
from redteam.plugins.contracts import merger
from redteam.plugins.settings import Range
from redteam.views import MergerView
from redteam_attacks.merging.holders import by_vectors
from redteam_attacks.merging.ties import elected


@merger(
    "breadcrumbs",
    tunable="coefficient",
    holds={"order", "permutation", "still"},
    paper="Davari and Belilovsky, Model Breadcrumbs, arXiv:2312.06795; the election of signs from arXiv:2306.01708",
)
def breadcrumbs(
    view: MergerView,
    *,
    by: Literal["tensor", "row"] = "tensor",
    elect: bool = False,
    density: Annotated[float, Range(0.01, 1.0)] = 0.14,
    gamma: Annotated[float, Range(0.0, 0.5)] = 0.01,
    coefficient: Annotated[float, Range(0.05, 2.0)] = 0.3,
) -> Checkpoint:
    """θ₀ + λ Σ m_t∘τ_t; m_t leaves out the share `gamma` of largest entries of each tensor and all but `density`.

    With `elect` (breadcrumbs-ties) Σ takes only the entries with the sign of the sum, as mergekit does. The paper
    counts layer by layer and leaves out 85 % from below and 0.7 to 1 % from above, with λ = 0.3; its release counts row
    by row (`by=row`, along the last axis) and has no defaults. Of entries of one size all are kept or none; where
    `density + gamma` exceeds 1 fewer of the largest are left out. At gamma 0 mergekit leaves out everything.

    Args:
        view: The experts and the base.
        by: Of what the shares are taken.
        elect: Whether an entry counts only if it has the sign that is elected.
        density: The share of entries that are kept.
        gamma: The share of largest entries that are left out.
        coefficient: λ.
    """

    def change(_: str, tasks: tuple[str, ...], deltas: Tensor) -> Tensor:
        table = deltas if by == "row" else deltas.flatten(1)
        thinned = _between(table, density, gamma).reshape(deltas.shape)
        return coefficient * (elected(thinned, mean=False) if elect else thinned.sum(0))

    return by_vectors(view, change)


def _between(rows: Tensor, density: float, gamma: float) -> Tensor:
    """Rows `[…, n]` with the share `density` of their entries below the share `gamma` of largest ones."""
    if density == 1:
        return rows
    sizes, count = rows.abs(), rows.shape[-1]
    kept = max(1, int(density * count))
    above = min(int(gamma * count), count - kept)
    low = sizes.kthvalue(count - above - kept + 1, dim=-1, keepdim=True).values
    high = sizes.kthvalue(count - above, dim=-1, keepdim=True).values
    return rows * ((sizes >= low) & (sizes <= high))
