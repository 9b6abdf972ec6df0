"""GroupCover: rows mixed inside secret groups and columns exchanged, tensor by tensor."""

from typing import Annotated

import numpy as np
from torch import Tensor

from redteam.checkpoint import Checkpoint
from redteam.plugins.contracts import defense
from redteam.plugins.settings import Range
from redteam.symmetry.sampling import magnitudes, permutations, rotations
from redteam.views import DefenderView
from redteam_defenses.sealing import Factors, Matrix, Mixed, Reordered, Veil, sealed


@defense("groupcover", exact=True, keyed=True, sealed=True, weakened={"group": 2}, paper="ICML 2024")
def groupcover(
    view: DefenderView, *, group: Annotated[int, Range(1, 256)] = 4, scale: Factors = (0.5, 2.0)
) -> Checkpoint:
    """W_g ← M_g W_g for random groups g of rows, then W ← W[:, π]; M_g = U diag(s) Vᵀ with s log-uniform.

    The form is that of the attackers' re-implementations. Sizes and condition are ours: M_g is to be undone without
    loss. Where the rows don't divide into groups, one group is smaller.

    Args:
        view: The victim and its key.
        group: Rows to a group.
        scale: Between which the singular values s are drawn.
    """

    def mixing(rows: Tensor, draws: np.random.Generator) -> tuple[Tensor, Tensor]:
        count, size = rows.shape
        left, right = rotations(count, size, draws), rotations(count, size, draws)
        return rows, left * magnitudes(scale, count, size, draws)[:, None, :] @ right

    def veils(matrix: Matrix) -> list[Veil]:
        draws = view.generator(matrix.label)
        order = permutations(1, matrix.rows, draws)[0]
        size = min(group, matrix.rows)
        whole = matrix.rows // size * size
        parts = [order[:whole].reshape(-1, size), *([order[None, whole:]] if whole < matrix.rows else [])]
        mixed = Mixed(tuple(mixing(rows, draws) for rows in parts))
        return [mixed, Reordered(permutations(1, matrix.columns, draws)[0])]

    return sealed(view, veils)
