"""AMO: every weight matrix moved towards the base by what tells it from the base most; that stays inside."""

from typing import Annotated

import torch

from redteam.checkpoint import Checkpoint
from redteam.plugins.contracts import defense
from redteam.plugins.settings import Range
from redteam.views import DefenderView
from redteam_defenses.sealing import Added, Matrix, in_base, sealed


@defense("amo", exact=True, keyed=False, sealed=True, weakened={"rank": 1})
def amo(view: DefenderView, *, rank: Annotated[int, Range(1, 4096, log=True)] = 8) -> Checkpoint:
    """W ← W + [W₀ − W]_r, the part of rank r with the largest singular values.

    The form is that of the attackers' re-implementations. Nothing is drawn: what an enclave keeps is no longer in what
    is released, and no fit finds it.

    Args:
        view: The victim and the base.
        rank: r; from a matrix's own rank on, what is released is the base's.
    """

    def veils(matrix: Matrix) -> list[Added]:
        back = matrix.read(view.base) - matrix.read(view.victim)
        left, values, right = torch.linalg.svd(back, full_matrices=False)
        return [Added(left[:, :rank] * values[:rank] @ right[:rank])]

    return sealed(view, veils, only=in_base(view))
