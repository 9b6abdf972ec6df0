"""Task vectors of which some entries are kept: what DARE and DELLA make of them, a block at a time."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from redteam_attacks.merging.entrywise import entrywise, totals
from redteam_attacks.merging.ties import elected


def of_what_is_kept(
    start: Tensor,
    tensors: Sequence[Tensor],
    kept: Sequence[Tensor],
    scales: Sequence[float] | None,
    *,
    elect: bool,
    mean: bool,
    coefficient: float,
) -> Tensor:
    """θ₀ + λ Σ r_t k_t∘τ_t, in float64, in the base's dtype.

    Args:
        start: θ₀ of one tensor.
        tensors: The experts'.
        kept: k by expert: which entries are kept, or by how much they are multiplied; 0 for what is dropped.
        scales: r by expert; by default ‖τ‖₁ / ‖k∘τ‖₁, and 1 where nothing is kept.
        elect: Whether entries count only if they have the sign of the sum.
        mean: Whether those that are elected are averaged rather than summed.
        coefficient: λ.
    """
    if scales is None:
        scales = [_rescaled(start, tensor, part) for tensor, part in zip(tensors, kept, strict=True)]

    def change(start: Tensor, *parts: Tensor) -> Tensor:
        triples = zip(parts[: len(tensors)], parts[len(tensors) :], scales, strict=True)
        thinned = torch.stack([tensor.sub_(start).mul_(part).mul_(scale) for tensor, part, scale in triples])
        return start + coefficient * (elected(thinned, mean=mean) if elect else thinned.sum(0))

    return entrywise(change, start, *tensors, *kept, dtype=start.dtype)


def _rescaled(start: Tensor, tensor: Tensor, kept: Tensor) -> float:
    def sizes(start: Tensor, tensor: Tensor, kept: Tensor) -> Tensor:
        size = tensor.sub_(start).abs_()
        return torch.stack((size.sum(), size.mul_(kept).sum()))

    before, after = totals(sizes, start, tensor, kept).tolist()
    return before / after if after > 0 else 1.0
