"""Arcee Fusion: of one expert, the entries that moved far in rows that changed much."""

import torch
from torch import Tensor

from redteam.checkpoint import Checkpoint
from redteam.plugins.contracts import merger
from redteam.views import MergerView
from redteam_attacks.merging.holders import onto_base, require_experts


@merger("arcee-fusion", holds={"order", "permutation", "still"}, paper="mergekit's `arcee_fusion`, from Arcee AI")
def arcee_fusion(view: MergerView) -> Checkpoint:
    """θ₀ + τ where |τ| · KL(softmax θ ‖ softmax θ₀) of the row ≥ its median + 1.5 (third − first quartile), else θ₀.

    Quartiles are those of the tensor, the lower of two entries between which they lie; mergekit draws a million entries
    at random from larger tensors, and all are counted here. The softmax has 1e-8 added, as in mergekit.

    Args:
        view: One expert and the base.

    Raises:
        BadInput: If there are more experts than one.
    """
    require_experts(view, "arcee-fusion", 1)

    def merge(name: str, experts: dict[str, Checkpoint]) -> Tensor:
        start = view.base[name].to(torch.float64)
        moved = next(iter(experts.values()))[name].to(torch.float64)
        if not moved.numel():
            return view.base[name]
        rows = (moved.reshape(1) if moved.ndim == 0 else moved, start.reshape(1) if moved.ndim == 0 else start)
        p, q = (row.softmax(-1) + 1e-8 for row in rows)
        importance = (moved - start).abs() * (p * (p / q).log()).sum(-1, keepdim=True).reshape(
            () if moved.ndim == 0 else (*moved.shape[:-1], 1)
        )
        first, median, third = (_quantile(importance.flatten(), share) for share in (0.25, 0.5, 0.75))
        keep = importance >= median + 1.5 * (third - first)
        return torch.where(keep, moved, start).to(view.base.dtype(name))

    return onto_base(view, merge)


def _quantile(numbers: Tensor, share: float) -> Tensor:
    return numbers.kthvalue(int(share * (len(numbers) - 1)) + 1).values
