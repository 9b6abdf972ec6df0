"""ShadowNet: columns, or rows, scaled and exchanged, tensor by tensor; an enclave puts inputs and outputs right."""

from typing import Literal

import torch

from redteam.checkpoint import Checkpoint
from redteam.plugins.contracts import defense
from redteam.symmetry.sampling import permutations
from redteam.views import DefenderView
from redteam_defenses.sealing import Factors, Matrix, Reordered, sealed


@defense(
    "shadownet",
    exact=True,
    keyed=True,
    sealed=True,
    weakened={"scale": (1.0, 1.5)},
    paper="arXiv:2011.05905",
)
def shadownet(
    view: DefenderView,
    *,
    scale: Factors = (1.0, 6.0),
    axis: Literal["columns", "rows"] = "columns",
) -> Checkpoint:
    """W ← (W diag(s))[:, π] with s uniform in [1, 6], or (diag(s) W)[π, :]; s and π of each tensor are its own.

    The form is that of the attackers' re-implementations, which TEMPO shares.

    Args:
        view: The victim and its key.
        scale: Between which the factors are drawn, uniformly.
        axis: Whether columns or rows are scaled and exchanged.
    """

    def veils(matrix: Matrix) -> list[Reordered]:
        draws = view.generator(matrix.label)
        width = matrix.columns if axis == "columns" else matrix.rows
        factors = torch.from_numpy(draws.uniform(*scale, width))
        return [Reordered(permutations(1, width, draws)[0], factors, dim=1 if axis == "columns" else 0)]

    return sealed(view, veils)
