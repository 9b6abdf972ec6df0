"""ACTMerge: RegMean without data, the inputs of each layer guessed from its task vectors."""

from typing import Annotated

import torch
from torch import Tensor

from redteam.checkpoint import Checkpoint
from redteam.plugins.contracts import merger
from redteam.plugins.settings import Range
from redteam.views import MergerView
from redteam_attacks.merging.holders import Weights
from redteam_attacks.merging.matrices import TaskVectors, by_matrices
from redteam_attacks.merging.regression import regressed


@merger(
    "actmerge",
    holds={"order", "permutation", "rotation", "still"},
    paper="Abdel Hameed et al., Model Merging via Data-Free Covariance Estimation, arXiv:2604.01329",
)
def actmerge(view: MergerView, *, weights: Weights = (), longest: Annotated[int, Range(2, 1e9)] = 20_000) -> Checkpoint:
    """θ₀ + (Σ w Δ G)(Σ w G)⁺, Δ each expert's matrix less the base's and G = ΔᵀΔ; the release calls it ACTMat.

    It is `wudi` without norms, so that a longer task vector counts for more. Eigenvalues below columns · 2⁻²³ of the
    largest count as zeros, as they do for the release, which computes in float32: at 1000 columns, singular values
    under 1 % of the largest; in their directions nothing is changed. As in the release there is no λ, and what is no
    matrix gets mean τ, as does a matrix with a side of `longest` or more, such as embeddings.

    Args:
        view: The experts and the base.
        weights: w by task, 1 where none is given.
        longest: The side from which a matrix is averaged.
    """
    given = dict(weights)

    def change(vectors: TaskVectors) -> Tensor:
        cutoff = vectors.shape[1] * 2**-23

        def solve(target: Tensor, gram: Tensor) -> Tensor:
            inverse: Tensor = torch.linalg.pinv(gram, rtol=cutoff, hermitian=True)
            return target @ inverse

        return regressed(vectors, lambda task, _: given.get(task, 1.0), solve)

    return by_matrices(view, change, longest=longest)
