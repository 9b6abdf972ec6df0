"""RegMean: each linear map answers every expert's own inputs as nearly as one map can as that expert does."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Annotated

import torch
from torch import Tensor

from redteam.checkpoint import Checkpoint
from redteam.checkpoint.modules import linear_paths, watched
from redteam.plugins.contracts import Needs, merger
from redteam.plugins.settings import Range
from redteam.tasks import batched
from redteam.views import MergerView
from redteam_attacks.merging.holders import holders, without_base

_ROWS = 64  # inputs to a forward pass


@merger(
    "regmean",
    needs_base=False,
    needs=Needs.INPUTS,
    holds={"identical", "order", "permutation", "still"},
    paper="Jin et al., Dataless Knowledge Fusion by Merging Weights, arXiv:2212.09849",
)
def regmean(
    view: MergerView,
    *,
    samples: Annotated[int, Range(1, 4096)] = 256,
    alpha: Annotated[float, Range(0.0, 1.0)] = 0.9,
) -> Checkpoint:
    """W = (Σ W_t C_t)(Σ C_t)⁻¹ for each linear map, C_t = Σ x xᵀ of what it reads in expert t on inputs of its task.

    Off its diagonal C_t is multiplied by alpha, 0.9 in the paper (FusionBench: 0.95 for CLIP, 0.6 for GPT-2). Every
    other tensor is the mean of the experts, and so is W in directions that no input takes, where the release's inverse
    fails; maps that a network holds fused or stores transposed, as GPT-2 does, are averaged as well. It costs a forward
    pass of each expert over its samples, in float32, and two matrices [in, in] and [out, in] for every map in memory.

    Args:
        view: The experts and inputs of their tasks.
        samples: Inputs of each task; all where there are fewer.
        alpha: What the Gram matrices are multiplied by off their diagonals.
    """
    held = {name: set(experts) for name, experts in holders(view)}
    sums: dict[str, _Sums] = {}
    for task, expert in view.experts.items():
        for name, gram in _read(expert, view.inputs(task, samples)).items():
            if task in held.get(name, ()):
                shrunk = alpha * gram + (1 - alpha) * torch.diag(gram.diagonal())
                one = _Sums(1, shrunk, expert[name].to(shrunk) @ shrunk)
                sums[name] = sums[name] + one if name in sums else one

    def merge(name: str, experts: dict[str, Checkpoint], dtype: torch.dtype) -> Tensor:
        mean = torch.stack([expert[name].to(torch.float64) for expert in experts.values()]).mean(0)
        found = sums.get(name)
        if found is None or found.count != len(experts):
            return mean.to(dtype)
        inverse: Tensor = torch.linalg.pinv(found.gram, hermitian=True)
        return (mean + (found.target - mean @ found.gram) @ inverse).to(dtype)

    return without_base(view, merge)


@dataclass(frozen=True)
class _Sums:
    """Over some experts: how many they are, Σ C and Σ W C."""

    count: int
    gram: Tensor
    target: Tensor

    def __add__(self, other: _Sums) -> _Sums:
        return _Sums(self.count + other.count, self.gram + other.gram, self.target + other.target)


def _read(expert: Checkpoint, inputs: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Name of a weight → Σ x xᵀ of what its map reads, float64 `[in, in]`, padding left out."""
    with torch.random.fork_rng(devices=[]):  # transformers may initialise before it loads
        network = expert.module(torch.float32)
    paths = linear_paths(expert, network)
    found: dict[str, Tensor] = {}
    part: Mapping[str, Tensor] = {}

    def look(name: str, given: Tensor, _: Tensor) -> None:
        mask = part.get("attention_mask")
        kept = given[mask.bool()] if mask is not None and mask.shape == given.shape[:-1] else given
        rows = kept.reshape(-1, kept.shape[-1]).double()
        found[name] = rows.T @ rows + found.get(name, torch.zeros(()))

    with torch.no_grad(), watched(network, paths, look):
        for part in batched(inputs, _ROWS):
            network(**part)
    return found
