"""KnOTS: task vectors side by side in one singular value decomposition, merged in the basis that they share."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Annotated, Literal

import torch
from torch import Tensor

from redteam.checkpoint import Checkpoint, is_finite
from redteam.plugins.contracts import merger
from redteam.plugins.settings import Range
from redteam.views import MergerView
from redteam_attacks.merging.combining import combined
from redteam_attacks.merging.holders import holders
from redteam_attacks.merging.matrices import TaskVectors, by_matrices, task_vectors
from redteam_attacks.merging.spectra import leading
from redteam_attacks.merging.ties import cutoffs, elected, kept_from


@merger(
    "knots",
    tunable="coefficient",
    holds={"order", "permutation", "still"},
    paper="Stoica et al., Model merging with SVD to tie the Knots, arXiv:2410.19735",
)
def knots(
    view: MergerView,
    *,
    combination: Literal["ties", "linear", "dare_linear", "dare_ties"] = "ties",
    variant: Literal["release", "paper"] = "release",
    density: Annotated[float, Range(0.01, 1.0)] = 0.2,
    coefficient: Annotated[float, Range(0.05, 3.0)] = 0.6,
) -> Checkpoint:
    """θ₀ + λ U f(S V₁ᵀ, …, S V_Tᵀ), with [Δ₁ … Δ_T] = U S [V₁ᵀ … V_Tᵀ] for each matrix.

    | combination | f |
    |---|---|
    | `ties` | the largest entries of all matrices together kept, and the mean of those that have the elected sign |
    | `linear` | the sum, which makes it task arithmetic, whatever the basis |
    | `dare_linear`, `dare_ties` | entries drawn with probability density and divided by that, then either |

    The paper merges V_tᵀ and multiplies by U S afterwards (`variant=paper`), so that small singular values count as
    large ones when entries are trimmed and signs elected; its release multiplies by S before (`release`), and so the
    figures are. Singular values that are zero within rounding are left out (the release: below 1e-5). Its keeping of a
    share keeps one entry more. What is no matrix gets λ mean τ; the release leaves it at the base, and its experts are
    adapters, in which nothing moved there. It also leaves out their scale alpha / r, which is 1 there.

    Trimming takes two passes over all experts with a decomposition of every matrix in each, before the merge. A
    rotation of inputs does not commute with it, of outputs it does.

    Args:
        view: The experts and the base.
        combination: f.
        variant: Whose; see above.
        density: The share of entries that is kept; 0.2 in the release's setting for eight ViTs.
        coefficient: λ; 0.6 there.
    """

    def split(vectors: TaskVectors) -> tuple[Tensor, dict[str, Tensor]]:
        """What is common, `[rows, k]`, and the part of each task, `[k, columns]`."""
        stacked = torch.cat(list(vectors), 1)
        left, size, _ = leading(stacked, min(stacked.shape))
        parts = left.mT @ stacked
        if variant == "paper":
            left, parts = left * size, parts / size[:, None]
        return left, dict(zip(vectors.tasks, parts.split(vectors.shape[1], 1), strict=True))

    def sizes() -> Iterator[tuple[str, Tensor]]:
        for name, experts in holders(view):
            if len(view.base.shape(name)) == 2 and is_finite(stored := view.base[name]):
                vectors = task_vectors(name, stored.to(torch.float64), experts)
                for task, part in split(vectors)[1].items() if vectors.are_matrices() else ():
                    yield task, part.abs().float().flatten()

    floors = cutoffs(sizes, density) if combination == "ties" else {}

    def change(vectors: TaskVectors) -> Tensor:
        left, parts = split(vectors)
        if combination == "ties":
            kept = [kept_from(part, floors.get(task, 0.0)) for task, part in parts.items()]
            return left @ elected(torch.stack(kept), mean=True)
        return left @ combined(
            combination,
            parts,
            weights=dict.fromkeys(parts, 1.0),
            density=density,
            draws=lambda task: view.generator(f"{task}/{vectors.name}"),
        )

    return by_matrices(view, change, coefficient=coefficient)
