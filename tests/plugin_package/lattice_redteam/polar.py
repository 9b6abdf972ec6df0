"""Polar: rotations of heads fitted by Newton's iteration for the polar factor, without singular values."""

from __future__ import annotations

from dataclasses import dataclass

import torch

from redteam import AttackerView, Checkpoint, Needs, attack
from redteam.anatomy import Sites
from redteam.symmetry import MatrixGauge, Orthogonal, Stacks, fit_gauges

_STEPS = 60


@dataclass(frozen=True)
class Polar(Orthogonal):
    """The orthogonal group, fitted by X ← (X + X⁻ᵀ) / 2 (Higham, SIAM J. Sci. Stat. Comput. 7, 1986)."""

    def fit(self, moving: Stacks, target: Stacks) -> MatrixGauge:
        """The polar factor of `left0 leftᵀ + right0 rightᵀ`, float64 [B, n, n]."""
        cross = target.left @ moving.left.mT + target.right @ moving.right.mT
        factor = cross / torch.linalg.matrix_norm(cross)[:, None, None]
        for _ in range(_STEPS):
            factor = (factor + torch.linalg.inv(factor).mT) / 2
        return MatrixGauge(factor)


@attack(
    "polar",
    breaks={("qk", Orthogonal), ("vo", Orthogonal)},
    needs=Needs.ANCHOR,
    targets=("mirrors",),
    keeps_function=True,
)
def polar(view: AttackerView, *, sites: Sites = ("qk", "vo")) -> Checkpoint:
    """Undoes rotations and reflections inside heads.

    Args:
        view: Grants the base.
        sites: Kinds of sites to fit.
    """
    return fit_gauges(view.protected, view.anchor, sites, Polar())
