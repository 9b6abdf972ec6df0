"""TransLinkGuard: input columns exchanged in an order that an authorization module inside an enclave alone knows."""

from typing import Literal

import torch

from redteam.checkpoint import Checkpoint
from redteam.plugins.contracts import defense
from redteam.symmetry.sampling import permutations
from redteam.views import DefenderView
from redteam_defenses.sealing import Matrix, Reordered, sealed


@defense(
    "translinkguard",
    exact=True,
    keyed=True,
    sealed=True,
    weakened={"per": "network"},
    paper="arXiv:2404.11121",
)
def translinkguard(view: DefenderView, *, per: Literal["layer", "network"] = "layer") -> Checkpoint:
    """W ← W[:, π] for queries, keys, values, up (and gate), Wo ← Wo[π, :], with one permutation π for each layer.

    The form is that of the attackers' re-implementations. Down projections are released as they are.

    Args:
        view: The victim and its key.
        per: Whether each layer has an order of its own, or all have one.
    """

    def order(matrix: Matrix, width: int) -> torch.Tensor:
        where = f"layer {matrix.layer}" if per == "layer" else "network"
        return permutations(1, width, view.generator(f"{where}, width {width}"))[0]

    def veils(matrix: Matrix) -> list[Reordered]:
        if matrix.writes:
            return [Reordered(order(matrix, matrix.rows), dim=0)]
        return [Reordered(order(matrix, matrix.columns))]

    return sealed(view, veils, only=lambda matrix: not (matrix.writes and matrix.kind == "mlp"))
