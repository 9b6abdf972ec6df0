"""PaRaMS: neurons in the order farthest from the base's, and one secret matrix per head for both of its pairs."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Literal

import torch

from redteam.anatomy import Sites, anatomy_of
from redteam.checkpoint import Checkpoint, shared_tensors
from redteam.errors import BadSetting
from redteam.plugins.contracts import defense
from redteam.plugins.settings import Range
from redteam.symmetry import Group, sampled_locks
from redteam.views import DefenderView
from redteam_defenses.composed import Composed, UniformScaling
from redteam_defenses.far import FarPermutation

Form = Literal["diagonal", "symmetric", "nonsymmetric"]
Ends = Annotated[tuple[float, float], Range(1e-6, 1e6, log=True, rising=True)]
_HEADS = ("qk", "vo")


@defense(
    "params",
    exact=True,
    keyed=True,
    adapts=True,
    weakened={"seed": 0},
    claim="ViT-B-32 pairs under task arithmetic at 0.8: Cars/RESISC45 70.3/94.2 → 0.5/2.1, EuroSAT/SVHN 98.1/95.9 → "
    "9.7/19.4; Llama-2 LoRA Emotion 97.6 → 21.4, Twitter 95.3 → 35.8 (second-hand).",
    paper="arXiv:2503.07661",
)
def params(
    view: DefenderView,
    *,
    form: Form = "nonsymmetric",
    factors: Ends = (0.05, 20.0),
    symmetric: Ends = (0.05, 20.0),
    nonsymmetric: Ends = (0.1, 15.0),
    sites: Sites = ("qk", "vo", "mlp"),
    seed: Annotated[int, Range(0, 2**31 - 1)] | None = None,
    prune: Annotated[float, Range(0.0, 0.99)] = 0.0,
) -> Checkpoint:
    """q ← A q, k ← A⁻ᵀ k, v ← A v, Wo ← Wo A⁻¹ with one A per head; MLPs permuted as far from the base as they go.

    A is diag(α), α uniform; U diag(s) Uᵀ; or (Z + 10⁻³ I) diag(s), s log-uniform: the release's three forms, its ranges
    and its default. The permutation minimises Σ W1·W1₀ᵀ + b1 b1₀ᵀ + W2ᵀ·W2₀, the gate included, by linear assignment.
    The release repeats that over the layers in a random order; where nothing but the neurons moves, no layer depends on
    another and one pass is the minimum. It draws on no key: whoever has the base takes it off by the nearest order.

    Where rotary embeddings turn queries and keys, matrices adapt as in `mergelock`, one draw each for the two pairs;
    the diagonal form is refused there.

    Dropout pruning before the rearrangement, meant against adaptive attackers, is named in the paper and absent from
    the release. Here each entry of the task vector of an MLP is dropped with probability p and the others are divided
    by 1 − p, since experts are known to bear that; the function then changes, and nothing takes it off again.

    Args:
        view: The victim, the base and its key.
        form: Of A.
        factors: Between which the diagonal form's α are drawn, uniformly.
        symmetric: Between which the symmetric form's s are drawn.
        nonsymmetric: Between which the nonsymmetric form's s are drawn.
        sites: Kinds of sites: `mlp` for the permutation, `qk` and `vo` for A.
        seed: Exchanges the key for a published seed, as the release does, which fixes 0 for every model.
        prune: p, 0 for no pruning.
    """
    if unknown := sorted(set(sites) - {*_HEADS, "mlp"}):
        raise BadSetting(f"params locks no sites of the kind {unknown[0]!r}; expected some of qk, vo and mlp.")
    view = view if seed is None else view.seeded(seed)
    checkpoint = view.victim
    if "mlp" in sites:
        if prune:
            checkpoint = _pruned(view, prune)
        far = FarPermutation(view.base)
        checkpoint = far.put_on(checkpoint)
        view.locks.append(far)
    groups: Mapping[Form, Group] = {
        "diagonal": UniformScaling(scale=factors),
        "symmetric": Composed(scale=symmetric, form="symmetric"),
        "nonsymmetric": Composed(scale=nonsymmetric, form="nonsymmetric"),
    }
    kinds = tuple(kind for kind in _HEADS if kind in sites)
    # A head's stream bears no kind, so that both of its pairs draw the same A.
    locks = sampled_locks(
        checkpoint, kinds, groups[form], lambda label: view.generator(f"head {label.partition('/')[2]}"), adapts=True
    )
    for lock in locks:
        checkpoint = lock.put_on(checkpoint)
    view.locks.extend(locks)
    return checkpoint


def _pruned(view: DefenderView, share: float) -> Checkpoint:
    """The victim with the task vector of its MLPs thinned out; lazy."""
    victim, base = view.victim, view.base
    shared = set(shared_tensors(victim, base))
    names = dict.fromkeys(name for site in anatomy_of(victim).sites(("mlp",)) for name in site.names if name in shared)

    def thinned(name: str) -> torch.Tensor:
        start = base[name].to(torch.float64)
        kept = torch.from_numpy(view.generator(f"prune {name}").random(tuple(start.shape)) >= share)
        away = victim[name].to(torch.float64) - start
        return (start + kept * away / (1 - share)).to(victim.dtype(name))

    return victim.replace(Checkpoint.computed(victim.outline(names), thinned))
