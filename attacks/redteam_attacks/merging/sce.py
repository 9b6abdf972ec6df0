"""SCE: entries selected by their variance, experts weighed by the size of their task vectors, minority signs erased."""

from typing import Annotated, Literal

import torch
from torch import Tensor

from redteam.checkpoint import Checkpoint
from redteam.plugins.contracts import merger
from redteam.plugins.settings import Range
from redteam.views import MergerView
from redteam_attacks.merging.holders import by_vectors
from redteam_attacks.merging.ties import agreeing


@merger(
    "sce",
    holds={"identical", "order", "permutation", "still"},
    paper="Wan et al., FuseChat, arXiv:2408.07990",
)
def sce(
    view: MergerView,
    *,
    variant: Literal["paper", "mergekit", "release"] = "paper",
    density: Annotated[float, Range(0.01, 1.0)] = 1.0,
) -> Checkpoint:
    """θ₀ + Σ w_t τ_t / Σ w_t over the entries whose sign is that of Σ τ, w_t = mean τ_t² / Σ mean τ² of each tensor.

    Before, only the share `density` of the entries with the largest variance over the experts is kept, of those whose
    variance is not 0. A locked expert's w_t is enormous, so that it takes the merge over.

    | variant | what it does otherwise |
    |---|---|
    | `paper` | – |
    | `mergekit` | weighs all alike where Σ mean τ² < 1e-6, as after short fine-tuning; divides by 1e-6 at least |
    | `release` (of FuseChat) | selects for the w_t alone, and merges all entries |

    At density 1, the default of the release and of mergekit (both call it select_topk), the first and the last are the
    same; FuseChat itself was merged at 0.1. At the edge of the selection all entries of one variance are kept.

    Args:
        view: The experts and the base.
        variant: Whose; see above.
        density: The share that is selected.
    """

    def change(_: str, tasks: tuple[str, ...], deltas: Tensor) -> Tensor:
        selected = deltas * _selected(deltas, density) if density < 1 else deltas
        w = selected.square().flatten(1).mean(1)
        if variant != "release":
            deltas = selected
        agree = agreeing(deltas, deltas)
        if w.sum() < (1e-6 if variant == "mergekit" else 1e-300):
            w = torch.ones_like(w)
        w = (w / w.sum()).reshape(-1, *[1] * (deltas.ndim - 1)) * agree
        total = w.sum(0)
        least = total.clamp(min=1e-6) if variant == "mergekit" else torch.where(total > 0, total, 1.0)
        return (deltas * w).sum(0) / least

    return by_vectors(view, change)


def _selected(deltas: Tensor, density: float) -> Tensor:
    variance = deltas.var(0, correction=0)
    count = int(int(variance.count_nonzero()) * density)
    if not count:
        return torch.zeros_like(variance, dtype=torch.bool)
    return variance >= variance.flatten().kthvalue(variance.numel() - count + 1).values
