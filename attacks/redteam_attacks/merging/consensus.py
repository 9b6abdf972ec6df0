"""Consensus: what too few tasks use of the sum of the task vectors is left out."""

from typing import Annotated

import torch
from torch import Tensor

from redteam.checkpoint import Checkpoint
from redteam.plugins.contracts import merger
from redteam.plugins.settings import Range
from redteam.views import MergerView
from redteam_attacks.merging.entrywise import entrywise
from redteam_attacks.merging.holders import onto_base, require_experts


@merger(
    "consensus",
    tunable="coefficient",
    holds={"order", "permutation", "still"},
    paper="Wang et al., Localizing Task Information (TALL-masks), arXiv:2405.07813",
)
def consensus(
    view: MergerView,
    *,
    share: Annotated[float, Range(0.0, 2.0)] = 0.4,
    tasks: Annotated[int, Range(1, 64)] = 2,
    coefficient: Annotated[float, Range(0.05, 1.5)] = 0.3,
) -> Checkpoint:
    """θ₀ + λ Σ τ, at the entries that at least `tasks` experts use: those with |τ_t| ≥ share · |Σ τ − τ_t|.

    The release chooses the share for each task among 0.2 to 0.6 on validation data; here it is one for all, the middle
    of those. Its `prun_thre_k` is `tasks`, 2 as here, and it chooses λ among 0.1 to 1.

    Args:
        view: At least `tasks` experts and the base.
        share: How large an expert's entry must be beside the others' sum.
        tasks: How many experts must use an entry; 1 takes out only what nobody uses.
        coefficient: λ.

    Raises:
        BadInput: If there are fewer experts than `tasks`.
    """
    require_experts(view, f"consensus:tasks={tasks}", tasks, more=True)

    def change(start: Tensor, *experts: Tensor) -> Tensor:
        deltas = torch.stack(experts).sub_(start)
        total = deltas.sum(0)
        used = (deltas.abs() >= share * (total - deltas).abs()).sum(0) >= tasks
        return start + coefficient * total * used

    def merge(name: str, experts: dict[str, Checkpoint]) -> Tensor:
        start = view.base[name]
        return entrywise(change, start, *(expert[name] for expert in experts.values()), dtype=start.dtype)

    return onto_base(view, merge)
