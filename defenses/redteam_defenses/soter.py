"""SOTER: most tensors multiplied by a secret number each, the others kept inside an enclave."""

from typing import Annotated

from redteam.checkpoint import Checkpoint
from redteam.plugins.contracts import defense
from redteam.plugins.settings import Range
from redteam.symmetry.sampling import magnitudes
from redteam.views import DefenderView
from redteam_defenses.sealing import Exchanged, Factors, Matrix, Scaled, Veil, in_base, matrices, sealed


@defense("soter", exact=True, keyed=True, sealed=True, weakened={"share": 1.0}, paper="USENIX ATC 2022")
def soter(
    view: DefenderView, *, share: Annotated[float, Range(0.0, 1.0)] = 0.8, scale: Factors = (0.1, 10.0)
) -> Checkpoint:
    """W ← s W for a share of the tensors, W ← W₀ for the others; s of each is its own, log-uniform in its range.

    The form is that of the attackers' re-implementations, which leave the range open. With `share=1` it is TSQP. What
    is kept inside no fit can find, since it was not released.

    Args:
        view: The victim, the base and its key.
        share: Of the tensors, how many are released, times a number; rounded.
        scale: Between which the numbers are drawn.
    """
    mine = [matrix.label for matrix in filter(in_base(view), matrices(view.victim))]
    drawn = view.generator("which").permutation(len(mine))
    released = {mine[place] for place in drawn[: round(share * len(mine))]}

    def veils(matrix: Matrix) -> list[Veil]:
        if matrix.label in released:
            return [Scaled(float(magnitudes(scale, 1, 1, view.generator(matrix.label))))]
        return [Exchanged(matrix.read(view.victim), matrix.read(view.base))]

    return sealed(view, veils, only=in_base(view))
