"""What peft makes of several adapters: their factors combined apart, or their products, or all side by side."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Literal, cast

import torch
from torch import Tensor

from redteam.checkpoint import Checkpoint
from redteam.checkpoint.factors import Factors
from redteam.errors import Inapplicable
from redteam.plugins.contracts import merger
from redteam.plugins.settings import Range
from redteam.views import MergerView
from redteam_attacks.merging.adapters import Rank, by_adapters
from redteam_attacks.merging.combining import Combination, combined
from redteam_attacks.merging.holders import Weights
from redteam_attacks.merging.spectra import truncated


@merger(
    "peft",
    tunable="coefficient",
    holds={"order", "permutation", "rotation", "still"},
    paper="add_weighted_adapter of PEFT 0.21, github.com/huggingface/peft; the adapters as by mergekit-extract-lora",
)
def peft(
    view: MergerView,
    *,
    combination: Literal[
        "svd",
        "linear",
        "cat",
        "ties",
        "ties_svd",
        "dare_linear",
        "dare_ties",
        "dare_linear_svd",
        "dare_ties_svd",
        "magnitude_prune",
        "magnitude_prune_svd",
    ] = "svd",
    rank: Rank = 128,
    density: Annotated[float, Range(0.01, 1.0)] = 0.2,
    weights: Weights = (),
    coefficient: Annotated[float, Range(0.05, 2.0)] = 1.0,
) -> Checkpoint:
    """θ₀ + the adapter that `PeftModel.add_weighted_adapter` makes of the experts' adapters s_t B_t A_t.

    | combination | matrices |
    |---|---|
    | `linear`, `ties`, `dare_linear`, `dare_ties`, `magnitude_prune` | f(B) f(A): B and A apart, each with √(λ w s) |
    | `cat` | λ Σ w_t s_t B_t A_t, since [B₁ … B_T] [A₁; …; A_T] is that |
    | `svd`, and the same names with `_svd` | λ f(s B A), cut down to the largest rank of an adapter |

    f is the weighted sum (`linear`, `svd`), that of the largest or of drawn entries of each part, or the mean of those
    that have an elected sign. B A has terms B_t A_u of one expert's output and another's input where factors are
    combined apart; nobody trained these, and they depend on how each product is split up.

    An expert that is a plain LoRA of this base brings its own A, B and s. Every other expert, a whole model or another
    kind of adapter, becomes one as mergekit-extract-lora does it, matrix by matrix: the leading `rank` singular
    vectors, √S on either side, s = 1. That leaves tables of tokens whole unless it is told --embed-lora; here they are
    matrices. What is no matrix gets λ mean τ: peft refuses to merge what adapters store whole, and in an adapter
    without such tensors nothing moved.

    As in peft, a single expert is always combined by `linear`, adapters of unlike rank have their factors not combined
    apart, and the sign of a negative s goes with A. Unlike in peft, at least one entry is kept, and all of one size at
    the edge; random entries depend on the names of task and tensor alone.

    Args:
        view: The experts and the base.
        combination: As peft calls it; `svd` is its default.
        rank: Of the adapters that whole models become; mergekit-extract-lora's --max-rank, 128 there as well.
        density: The share of entries that pruning keeps; 0.2 in peft's guide.
        weights: w by task, 1 where none is given.
        coefficient: λ, times every weight.
    """
    chosen = "linear" if len(view.experts) == 1 else combination
    kind = cast("Combination", "linear" if chosen in ("svd", "cat") else chosen.removesuffix("_svd"))
    given = dict(weights)

    def change(name: str, adapters: dict[str, Factors]) -> Tensor:
        w = {task: given.get(task, 1.0) for task in adapters}

        def of(parts: Mapping[str, Tensor], by: Mapping[str, float], what: str = "") -> Tensor:
            return combined(
                kind, parts, weights=by, density=density, draws=lambda t: view.generator(f"{t}/{name}{what}")
            )

        if chosen == "cat" or chosen.endswith("svd"):
            if kind == "linear":  # one at a time
                whole = sum((w[task] * one.change for task, one in adapters.items()), torch.zeros(()))
            else:
                whole = of({task: one.change for task, one in adapters.items()}, w)
            return whole if chosen == "cat" else truncated(whole, max(one.rank for one in adapters.values()))
        _require_one_rank(chosen, name, adapters)
        scaled = {task: w[task] * one.scale for task, one in adapters.items()}
        root = {task: abs(scale) ** 0.5 for task, scale in scaled.items()}
        signed = {task: root[task] if scale >= 0 else -root[task] for task, scale in scaled.items()}
        up = of({task: one.up for task, one in adapters.items()}, root, "/B")
        return up @ of({task: one.down for task, one in adapters.items()}, signed, "/A")

    return by_adapters(view, change, rank=rank, coefficient=coefficient)


def _require_one_rank(combination: str, name: str, adapters: Mapping[str, Factors]) -> None:
    ranks = {task: one.rank for task, one in adapters.items()}
    if len(set(ranks.values())) > 1:
        told = ", ".join(f"{task} {rank}" for task, rank in ranks.items())
        raise Inapplicable(
            f"peft's {combination} takes adapters of one rank, and at {name!r} they have: {told}; say combination=cat "
            f"or {'svd' if combination == 'linear' else f'{combination}_svd'}, or a rank for whole models that is the "
            "adapters' own."
        )
