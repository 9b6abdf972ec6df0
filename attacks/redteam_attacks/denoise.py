"""Denoise: what lies between embeddings or head and the base's, without what looks like noise."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from redteam.checkpoint import Checkpoint, shared_tensors
from redteam.checkpoint.vocabulary import in_common
from redteam.plugins.contracts import Needs, attack
from redteam.symmetry.solvers import require_finite
from redteam.symmetry.stream_ends import stream_ends
from redteam.views import AttackerView

_POINTS = 20_001  # of the density whose median is looked for


@attack(
    "denoise",
    needs=Needs.ANCHOR,
    targets=("aloepri",),
    paper="Gavish and Donoho, Optimal Shrinkage of Singular Values, arXiv:1405.7511",
)
def denoise(view: AttackerView) -> Checkpoint:
    """W₀ + Σ η(s) u vᵀ over the singular values s of W − W₀, for the matrices at both ends of the residual stream.

    Fine-tuning moves embeddings and head along few directions, noise along all alike. η is the shrinkage that loses the
    least in the Frobenius norm where noise of one size lies on a matrix of low rank; its size is that whose median
    singular value is the median found, so that nothing need be known of it, and a matrix without noise keeps nearly
    all. Other tensors stay.

    Args:
        view: Grants the base.
    """
    ours, base = in_common(view.protected, view.anchor)
    shared = set(shared_tensors(ours, base))
    changed = {}
    for name in (name for names in stream_ends(ours) for name in names if name in shared):
        start = base[name].to(torch.float64)
        away = ours[name].to(torch.float64) - start
        require_finite(away)
        found = view.protected[name].clone()
        found[: len(start)] = (start + shrunk(away)).to(found.dtype)
        changed[name] = found
    return view.protected.replace(changed)


def shrunk(matrix: Tensor) -> Tensor:
    """A matrix [m, n] of low rank under noise, without the noise; zero where it is noise alone.

    η(s) = √((s² − β − 1)² − 4 β) / s above 1 + √β and 0 below, s in units of the noise's deviation times the root of
    the longer side, β the shorter side over the longer one.
    """
    wide = matrix if matrix.shape[0] <= matrix.shape[1] else matrix.T
    short, long = wide.shape
    values, vectors = torch.linalg.eigh(wide @ wide.T)
    sizes = values.clamp(min=0.0).sqrt()
    share = short / long
    unit = float(sizes.median()) / math.sqrt(_median(share))
    if not unit > 0:
        return matrix
    seen = sizes / unit
    kept = ((seen**2 - share - 1).square() - 4 * share).clamp(min=0.0).sqrt() / seen.square().clamp(min=1e-300)
    factor = torch.where(seen > 1 + math.sqrt(share), kept, 0.0)
    found: Tensor = (vectors * factor) @ (vectors.T @ wide)
    return found if wide is matrix else found.T


def _median(share: float) -> float:
    """Of the eigenvalues of N Nᵀ / longer side, N independent and of unit variance (Marchenko and Pastur)."""
    low, high = (1 - math.sqrt(share)) ** 2, (1 + math.sqrt(share)) ** 2
    # Between the ends as (1 − cos) goes, since the density has a root at each.
    turn = torch.linspace(0, math.pi, _POINTS, dtype=torch.float64)
    at = low + (high - low) * (1 - turn.cos()) / 2
    weight = torch.where(at > 0, turn.sin().square() / at.clamp(min=1e-300), 2.0)
    return float(at[int(torch.searchsorted(weight.cumsum(0), weight.sum() / 2))])
