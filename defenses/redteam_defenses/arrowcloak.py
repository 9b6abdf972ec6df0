"""ArrowCloak: one secret mask on all rows of a matrix, each with a weight of its own, so that no direction is left."""

from typing import Annotated

import torch

from redteam.checkpoint import Checkpoint
from redteam.plugins.contracts import defense
from redteam.plugins.settings import Range
from redteam.symmetry.sampling import magnitudes, permutations
from redteam.views import DefenderView
from redteam_defenses.sealing import Added, Factors, Matrix, Reordered, Scaled, Veil, in_base, sealed


@defense("arrowcloak", exact=True, keyed=True, sealed=True, weakened={"mask": 0.0}, paper="USENIX Security 2025")
def arrowcloak(
    view: DefenderView, *, mask: Annotated[float, Range(0.0, 100.0)] = 3.0, scale: Factors = (0.5, 2.0)
) -> Checkpoint:
    """W_i ← r₂ W_i + r_i m for every row i, one direction m and one number r₂ for each tensor, then rows exchanged.

    The form is that of the attackers' re-implementations; the sizes are ours.

    Args:
        view: The victim, the base and its key.
        mask: Deviation of the normal r_i, with ‖m‖ = 1, over the root mean square norm of the base's rows.
        scale: Between which r₂ is drawn, log-uniformly.
    """

    def veils(matrix: Matrix) -> list[Veil]:
        draws = view.generator(matrix.label)
        factor = float(magnitudes(scale, 1, 1, draws))
        direction, weights = (torch.from_numpy(draws.standard_normal(n)) for n in (matrix.columns, matrix.rows))
        size = mask * matrix.read(view.base).norm().cpu() / matrix.rows**0.5
        masked = Added(size * weights[:, None] * (direction / direction.norm())[None, :])
        return [Scaled(factor), masked, Reordered(permutations(1, matrix.rows, draws)[0], dim=0)]

    return sealed(view, veils, only=in_base(view))
