"""Model Stock: the mean of the experts, drawn towards the base as far as their task vectors disagree."""

from collections.abc import Sequence
from typing import Literal

import torch
from torch import Tensor

from redteam.checkpoint import Checkpoint
from redteam.plugins.contracts import merger
from redteam.views import MergerView
from redteam_attacks.merging.entrywise import BLOCK, entrywise, totals
from redteam_attacks.merging.holders import onto_base, require_experts


@merger(
    "model-stock",
    holds={"identical", "order", "permutation", "rotation", "still"},
    paper="Jang et al., Model Stock, arXiv:2403.19522",
)
def model_stock(view: MergerView, *, by: Literal["tensor", "row"] = "tensor") -> Checkpoint:
    """θ₀ + t mean τ with t = N c / (1 + (N−1) c), c the mean cosine of two of the N task vectors.

    Where task vectors are orthogonal it returns the base, which protects nobody, and t is negative where c is. mergekit
    divides by 1e-6 where the product of two norms is smaller, so that it moves less than this where task vectors are
    short. A tensor that one expert alone has in the base's shape becomes that expert's.

    Args:
        view: Two experts or more and the base.
        by: Whether c is taken of whole tensors or of rows (mergekit's filter_wise).

    Raises:
        BadInput: If there is one expert.
    """
    require_experts(view, "model-stock", 2, more=True)

    def merge(name: str, experts: dict[str, Checkpoint]) -> Tensor:
        start, tensors = view.base[name], [expert[name] for expert in experts.values()]
        if len(tensors) == 1:
            return tensors[0].to(start.dtype)
        by_row = by == "row" and start.ndim > 1
        flat = [part.flatten(1) if by_row else part.reshape(1, -1) for part in (start, *tensors)]
        share = _share(_by_row(flat) if by_row else totals(_inner, *flat)[None])
        shares = share.repeat_interleave(flat[0].shape[1]) if by_row else share.expand(start.numel())

        def change(start: Tensor, *parts: Tensor) -> Tensor:
            *experts, share = parts
            return start + share * (torch.stack(experts).mean(0) - start)

        return entrywise(change, start, *tensors, shares, dtype=start.dtype)

    return onto_base(view, merge)


def _inner(start: Tensor, *parts: Tensor) -> Tensor:
    """Inner products of task vectors, `[…, T, T]`."""
    deltas = torch.stack(parts, dim=-2).sub_(start.unsqueeze(-2))
    return deltas @ deltas.mT


def _by_row(flat: Sequence[Tensor]) -> Tensor:
    """The same of each row, float64 `[rows, T, T]`."""
    blocks = zip(*(part.split(max(1, BLOCK // max(1, part.shape[1]))) for part in flat), strict=True)
    return torch.cat([_inner(*(part.to(torch.float64) for part in block)) for block in blocks])


def _share(inner: Tensor) -> Tensor:
    """t of each."""
    count, norms = inner.shape[-1], inner.diagonal(dim1=-2, dim2=-1).sqrt()
    lengths = torch.where(norms > 0, norms, 1.0)
    cosines = inner / lengths[:, None] / lengths[..., None]
    one, other = torch.triu_indices(count, count, 1)
    c = cosines[:, one, other].mean(-1)
    below = 1 + (count - 1) * c
    return torch.where(below > 1e-12, count * c / below, 0.0)
