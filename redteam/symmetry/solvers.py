"""The pure solvers: tensors in, tensors out, batched over heads (and layers), float64.

All of them look for the G that brings a moving pair `(left, right)` to a target pair `(left0, right0)` under
`left ← G left, right ← G⁻ᵀ right`. A pair's first dimension is the batch; n is the width of the site.
"""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from redteam.anatomy import Stacks
from redteam.errors import BadInput
from redteam.symmetry.algebra import closest_rotation
from redteam.symmetry.tied_fast import quick
from redteam.symmetry.tied_robust import Fit, careful, tied_costs

__all__ = ["Fit", "assign", "cosines", "crossed", "general_linear", "procrustes", "require_finite", "tied_costs"]


def assign(profit: Tensor) -> Tensor:
    """The permutation of largest total profit, per matrix; equal profits are decided the same way every time.

    A row-wise argmax that is a permutation is optimal; only the other matrices go through `scipy`'s assignment.

    Args:
        profit: [B, n, n], target rows × moving rows.

    Returns:
        int64 [B, n]: for each target row the moving row that belongs there.

    Raises:
        BadInput: If `profit` holds NaN or infinity.
    """
    require_finite(profit)
    table = profit.detach().cpu().numpy()
    index = table.argmax(axis=-1)
    settled = (np.sort(index, axis=-1) == np.arange(table.shape[-1])).all(axis=-1)
    if not settled.all():
        from scipy.optimize import linear_sum_assignment

        for place in np.flatnonzero(~settled):
            index[place] = linear_sum_assignment(table[place], maximize=True)[1]
    return torch.from_numpy(index).to(profit.device)


def crossed(moving: Stacks, target: Stacks) -> Tensor:
    """`left0 leftᵀ + right0 rightᵀ`, [B, n, n], target rows × moving rows."""
    return target.left @ moving.left.mT + target.right @ moving.right.mT


def cosines(moving: Stacks, target: Stacks) -> Tensor:
    """The same of row-normalised stacks, on which no scale has a bearing."""
    return crossed(_normalised(moving), _normalised(target))


def carried_crossed(moving: Stacks, target: Stacks) -> Tensor | float:
    """`carried0 carriedᵀ`, which no scale or sign of a gauge touches; 0 where nothing is carried."""
    if moving.carried is None or target.carried is None:
        return 0.0
    return target.carried @ moving.carried.mT


def carried_cosines(moving: Stacks, target: Stacks) -> Tensor | float:
    """The same of row-normalised stacks."""
    return carried_crossed(_normalised(moving), _normalised(target))


def _normalised(stacks: Stacks) -> Stacks:
    def unit(stack: Tensor) -> Tensor:
        rows: Tensor = stack / torch.linalg.vector_norm(stack, dim=-1, keepdim=True).clamp(min=1e-300)
        return rows

    carried = None if stacks.carried is None else unit(stacks.carried)
    return Stacks(unit(stacks.left), unit(stacks.right), carried)


def procrustes(cross: Tensor) -> Tensor:
    """The orthogonal matrix closest to `cross`, per matrix (Kabsch without the sign: reflections are allowed).

    Args:
        cross: [B, n, n], `left0 leftᵀ + right0 rightᵀ`.

    Returns:
        [B, n, n], `U Vᵀ` of the singular value decomposition; any completion where the rank is short.

    Raises:
        BadInput: If `cross` holds NaN or infinity.
    """
    require_finite(cross)
    return closest_rotation(cross)


def general_linear(left: Tensor, right: Tensor, left0: Tensor, right0: Tensor, *, limit: int = 16) -> Fit:
    """Minimises `‖G left − left0‖² + ‖G⁻ᵀ right − right0‖²` over invertible G, per head.

    The moving pair is first balanced, which takes any lock off but for signs, so that neither the lock's condition
    number nor the key matters to what follows. From a closed form Gauss–Newton goes on by steps `G ← (I + tX) G`, where
    X solves the Sylvester equation `B X + X A = R_l leftᵀ − right R_rᵀ` with `A = left leftᵀ`, `B = right rightᵀ` and R
    the residuals; only n × n Gram matrices are needed. Well-conditioned heads whose start is close to what no G could
    better take a short way (`redteam.symmetry.tied_fast`), all others a careful one (`redteam.symmetry.tied_robust`).

    Args:
        left: Moving, [B, n, a].
        right: Moving, [B, n, c].
        left0: Target, [B, n, a].
        right0: Target, [B, n, c].
        limit: Most steps to take. On a small ViT's real task vectors the start is within 4 % of the optimal cost, one
            step within 2e-3, two within 2e-4.

    Raises:
        BadInput: If anything is NaN or infinite.
    """
    for stack in (left, right, left0, right0):
        require_finite(stack)
    fit, sure = quick(left, right, left0, right0, limit)
    if bool(sure.all()):
        return fit
    hard = ~sure
    rest = careful(left[hard], right[hard], left0[hard], right0[hard], limit)
    for field in ("matrix", "start", "cost", "steps"):
        getattr(fit, field)[hard] = getattr(rest, field)
    return fit


def require_finite(tensor: Tensor) -> None:
    """Raises BadInput if there is a NaN or an infinity in `tensor`."""
    if not bool(tensor.sum().isfinite()) and not bool(tensor.isfinite().all()):  # the sum is ten times as fast
        raise BadInput("A stack of weights holds NaN or infinity; expected finite numbers, so check the checkpoint.")
