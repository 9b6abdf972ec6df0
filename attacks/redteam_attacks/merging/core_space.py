"""Core Space: adapters as small matrices between bases that all of them share, merged there and rebuilt."""

from __future__ import annotations

import math
from typing import Annotated, Literal

import torch
from torch import Tensor

from redteam.checkpoint import Checkpoint
from redteam.checkpoint.factors import Factors
from redteam.plugins.contracts import merger
from redteam.plugins.settings import Range
from redteam.views import MergerView
from redteam_attacks.merging.adapters import Rank, by_adapters
from redteam_attacks.merging.combining import combined
from redteam_attacks.merging.spectra import flattened, leading
from redteam_attacks.merging.tsv_m import side_by_side


@merger(
    "core-space",
    tunable="coefficient",
    holds={"order", "permutation", "rotation", "still"},
    paper="Panariello et al., Accurate and Efficient Low-Rank Model Merging in Core Space, arXiv:2509.17786",
)
def core_space(
    view: MergerView,
    *,
    combination: Literal["tsv", "ties", "linear", "dare_linear", "dare_ties"] = "tsv",
    isotropic: bool = True,
    rank: Rank = 128,
    density: Annotated[float, Range(0.01, 1.0)] = 0.3,
    coefficient: Annotated[float, Range(0.05, 3.0)] = 1.0,
) -> Checkpoint:
    """θ₀ + λ U f(M₁, …, M_T) Vᵀ, M_t = Uᵀ B_t A_t V; U spans [B₁ … B_T] and V the rows of [A₁; …; A_T].

    U and V are the singular vectors of the stacked factors, so that a core M_t is a few rows and columns and nothing is
    lost. f is `tsv` (as tsv-m), `linear` (which makes it task arithmetic of the adapters), or as `peft` has these
    names, entries trimmed core by core; with `isotropic` the singular values of what comes out are made equal, as by
    iso-c. The release has cart as well.

    Experts become adapters as for `peft`, and what is no matrix gets λ mean τ, which the release leaves at the base. It
    takes no account of their scale alpha / r, which is 1 in its adapters; here each factor has √(alpha / r). Paper and
    release differ in how they write M_t, which is Σ_B V_Bᵀ U_A Σ_A between rotations in one and the product above in
    the other's comment: the same. The release's keeping of a share keeps one entry more, and `isotropic` fills up
    directions that no adapter has with whatever vectors its solver finds.

    Args:
        view: The experts and the base.
        combination: f. The release's example is tsv with isotropic.
        isotropic: Whether singular values are made equal.
        rank: Of the adapters that whole models become; the experts of the paper have 16.
        density: The share of entries that is kept; the release begins its search at 0.3.
        coefficient: λ; the release tries 0.1, 0.2 and so on until it gets worse.
    """

    def change(name: str, adapters: dict[str, Factors]) -> Tensor:
        root = {task: abs(one.scale) ** 0.5 for task, one in adapters.items()}
        ups = {task: root[task] * one.up for task, one in adapters.items()}
        downs = {task: math.copysign(root[task], one.scale) * one.down for task, one in adapters.items()}
        left, right = _basis(torch.cat(list(ups.values()), 1)), _basis(torch.cat(list(downs.values())).mT)
        cores = {task: (left.mT @ ups[task]) @ (down @ right) for task, down in downs.items()}
        each = min(left.shape[1], right.shape[1]) // len(cores)
        if combination == "tsv" and not each:  # a matrix with fewer rows than experts has no rank to share out
            return left @ torch.stack(list(cores.values())).mean(0) @ right.mT
        if combination == "tsv":
            merged = side_by_side(cores.values(), each)
        else:
            weights = dict.fromkeys(cores, 1.0)
            merged = combined(
                combination, cores, weights=weights, density=density, draws=lambda t: view.generator(f"{t}/{name}")
            )
        return left @ (flattened(merged) if isotropic else merged) @ right.mT

    return by_adapters(view, change, rank=rank, coefficient=coefficient)


def _basis(stacked: Tensor) -> Tensor:
    """Singular vectors of the columns, and zeros for those that depend on others: a core's sides are as in the paper.

    Args:
        stacked: `[side, all ranks]`.
    """
    sides = min(stacked.shape)
    left, _, _ = leading(stacked, sides)
    return torch.nn.functional.pad(left, (0, sides - left.shape[1]))
