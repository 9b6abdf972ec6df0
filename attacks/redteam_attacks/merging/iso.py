"""Isotropic merging: the sum of the task vectors with a flat spectrum, alone or with directions of each task."""

from typing import Annotated

import torch
from torch import Tensor

from redteam.checkpoint import Checkpoint
from redteam.plugins.contracts import merger
from redteam.plugins.settings import Range
from redteam.views import MergerView
from redteam_attacks.merging.matrices import TaskVectors, by_matrices
from redteam_attacks.merging.spectra import flattened, leading, whitened

_PAPER = "Marczak et al., No Task Left Behind, arXiv:2502.04959"


@merger("iso-c", tunable="coefficient", holds={"order", "permutation", "rotation", "still"}, paper=_PAPER)
def iso_c(view: MergerView, *, coefficient: Annotated[float, Range(0.05, 3.0)] = 1.0) -> Checkpoint:
    """θ₀ + λ s̄ U Vᵀ with Σ τ = U S Vᵀ, s̄ the mean of its singular values; λ mean τ for what is no matrix.

    Where Σ τ lacks rank, as of a few adapters, the release gives s̄ to directions that its solver happens to find; here
    they stay 0. The release tries λ from 0.15 to 3 on validation data; FusionBench's default is 1. Identical experts
    don't give the expert, nor does a single one.

    Args:
        view: The experts and the base.
        coefficient: λ.
    """
    return by_matrices(view, lambda vectors: flattened(vectors.sum()), coefficient=coefficient)


@merger("iso-cts", tunable="coefficient", holds={"order", "permutation", "rotation", "still"}, paper=_PAPER)
def iso_cts(
    view: MergerView,
    *,
    common: Annotated[float, Range(0.0, 1.0)] = 0.8,
    coefficient: Annotated[float, Range(0.05, 3.0)] = 1.0,
) -> Checkpoint:
    """θ₀ + λ s̄ P Qᵀ: P and Q of the leading directions of Σ τ and, beside them, of each τ − U Uᵀ τ.

    Of the shorter side r of a matrix about `common` · r directions U are the sum's, and the rest is shared out evenly;
    P and Q are the polar factors of all of them, s̄ the mean of their singular values. Else as `iso-c`. With one expert
    both are the same.

    Args:
        view: The experts and the base.
        common: The share of directions that are the sum's.
        coefficient: λ.
    """

    def change(vectors: TaskVectors) -> Tensor:
        rank, count = min(vectors.shape), len(vectors)
        each = min(round((rank - int(rank * common)) / count), rank // count)
        shared = leading(vectors.sum(), rank - each * count)
        of_all = shared[0]

        def left_over(vector: Tensor) -> tuple[Tensor, Tensor, Tensor]:
            square = float(vector.square().sum())
            return leading(vector - of_all @ (of_all.mT @ vector), each, square=square)

        left, size, right = zip(shared, *(map(left_over, vectors) if each else ()), strict=True)
        sizes = torch.cat(size)
        return whitened(torch.cat(left, 1), (sizes.sum() / rank).expand(len(sizes)), torch.cat(right, 1))

    return by_matrices(view, change, coefficient=coefficient)
