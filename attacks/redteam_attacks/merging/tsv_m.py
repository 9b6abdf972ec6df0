"""TSV-M: the leading singular vectors of each task vector, side by side, made orthogonal to each other's."""

from collections.abc import Iterable
from typing import Annotated

import torch
from torch import Tensor

from redteam.checkpoint import Checkpoint
from redteam.plugins.contracts import merger
from redteam.plugins.settings import Range
from redteam.views import MergerView
from redteam_attacks.merging.matrices import TaskVectors, by_matrices
from redteam_attacks.merging.spectra import leading, whitened


@merger(
    "tsv-m",
    tunable="coefficient",
    holds={"order", "permutation", "rotation", "still"},
    paper="Gargiulo et al., Task Singular Vectors, arXiv:2412.00081",
)
def tsv_m(view: MergerView, *, coefficient: Annotated[float, Range(0.05, 3.0)] = 1.0) -> Checkpoint:
    """θ₀ + λ P diag(s) Qᵀ: s are the r/T largest singular values of each τ, P and Q their vectors, made orthogonal.

    r is the shorter side of a matrix and T how many experts have it; P and Q are the polar factors of the vectors side
    by side. Every tensor that is no matrix gets λ mean τ, as does a matrix whose shorter side is less than T, which the
    release leaves at the base. Embeddings are matrices here; the release, whose models are towers for pictures, has
    none, and leaves out `text_projection`. Where a τ has a lower rank than r/T, as adapters have, the release fills up
    with vectors that its solver happens to find, and these push the others aside; here there are fewer. Identical
    experts give their r/T leading parts.

    Args:
        view: The experts and the base.
        coefficient: λ; 1 in the paper, and the release tries 0.15 to 3.
    """

    def change(vectors: TaskVectors) -> Tensor:
        return side_by_side(vectors, min(vectors.shape) // len(vectors))

    return by_matrices(view, change, coefficient=coefficient)


def side_by_side(matrices: Iterable[Tensor], rank: int) -> Tensor:
    """P diag(s) Qᵀ of the leading parts of some matrices.

    Args:
        matrices: Of one shape, float64, the shorter side of which is at least as long as all parts together.
        rank: Of each part.
    """
    left, size, right = zip(*(leading(matrix, rank) for matrix in matrices), strict=True)
    return whitened(torch.cat(left, 1), torch.cat(size), torch.cat(right, 1))
