"""WUDI: the matrix that agrees with every task vector on the inputs which that task vector was made of."""

from typing import Annotated

import torch
from torch import Tensor

from redteam.checkpoint import Checkpoint
from redteam.plugins.contracts import merger
from redteam.plugins.settings import Range
from redteam.views import MergerView
from redteam_attacks.merging.matrices import by_matrices
from redteam_attacks.merging.regression import regressed


@merger(
    "wudi",
    holds={"order", "permutation", "rotation", "still"},
    paper="Cheng et al., Whoever Started the Interference Should End It, arXiv:2503.08099",
)
def wudi(view: MergerView, *, ridge: Annotated[float, Range(1e-14, 1.0)] = 1e-2) -> Checkpoint:
    """θ₀ + (Σ Δ G / ‖Δ‖²)(Σ G / ‖Δ‖² + ridge · I)⁻¹, Δ each expert's matrix less the base's and G = ΔᵀΔ.

    At a ridge near 0 that is where Σ ‖(W − Δ) Δᵀ‖² / ‖Δ‖² is least. The release and FusionBench go there from Σ Δ by
    300 and 400 steps of Adam at 1e-5 and stop on the way, which is as well: in directions that hardly matter to the
    loss its least value overshoots. On the scenario `digits`, with steps as long beside the task vectors as theirs are
    beside CLIP's, 300 of them end nearest to a ridge of 1e-2; one of 1e-8 is 27 times as far away and scores 0.62, as
    the base does, where 1e-2 scores 0.80 and 1e-4 0.82.

    There is no λ, as in the paper. What is no matrix gets mean τ, as in FusionBench; the release merges the weights of
    attention and MLPs and leaves all else at the base, embeddings too. A Δ of zeros counts for nothing.

    Args:
        view: The experts and the base.
        ridge: Beside G / ‖Δ‖², whose eigenvalues sum to 1 for each expert.
    """

    def weight(_: str, vector: Tensor) -> float:
        square = float(vector.square().sum())
        return 1 / square if square > 0 else 0.0

    def solve(target: Tensor, gram: Tensor) -> Tensor:
        gram.diagonal().add_(ridge)
        solved: Tensor = torch.linalg.solve(gram, target, left=False)
        return solved

    return by_matrices(view, lambda vectors: regressed(vectors, weight, solve))
