"""LoRO: a secret matrix of low rank on every weight matrix; an enclave takes its product off the outputs."""

from typing import Annotated

import torch

from redteam.checkpoint import Checkpoint
from redteam.plugins.contracts import defense
from redteam.plugins.settings import Range
from redteam.views import DefenderView
from redteam_defenses.sealing import Added, Matrix, in_base, sealed


@defense("loro", exact=True, keyed=True, sealed=True, weakened={"rank": 1})
def loro(
    view: DefenderView,
    *,
    rank: Annotated[int, Range(1, 256)] = 8,
    share: Annotated[float, Range(0.01, 100.0, log=True)] = 1.0,
) -> Checkpoint:
    """W ← W + A B, A [out, r] and B [r, in] normal, with ‖A B‖ = share · ‖W₀‖.

    The form is that of the attackers' re-implementations; the size is ours.

    Args:
        view: The victim, the base and its key.
        rank: r.
        share: Norm of what is added, over that of the base's matrix.
    """

    def veils(matrix: Matrix) -> list[Added]:
        draws = view.generator(matrix.label)
        A, B = (torch.from_numpy(draws.standard_normal(size)) for size in ((matrix.rows, rank), (rank, matrix.columns)))
        amount = A @ B
        return [Added(share * matrix.read(view.base).norm().cpu() / amount.norm() * amount)]

    return sealed(view, veils, only=in_base(view))
